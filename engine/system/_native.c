/* What NumPy code of accumulate.py, noise.py and model.py does, in one pass and without Python's lock. That code says what the
 * numbers mean, and must give the same bits; tests compare both.
 *
 * Values of patches are taken on a grid of 2**-bits grey levels. Adding 1.5 * 2**23 to a float (1.5 * 2**52 to a double) of less
 * than half that size leaves its nearest whole number, ties to even, in the low bits: the compiler turns that into
 * vector instructions of any processor, and rint() into a call.
 */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* One build for every x86-64; the loader takes the widest vectors that the processor has. */
#if defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__) && defined(__x86_64__) && defined(__gnu_linux__)
#define VECTORIZED __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define VECTORIZED
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "pixels are put together for little-endian processors; NumPy does the work on others"
#endif

#define CHANNELS 3

static inline int32_t nearest(float value)
{
    float shifted = value + 12582912.0f;
    int32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    return bits - 0x4B400000;
}

static inline uint8_t clipped(int32_t value)
{
    return (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
}

/* A run of values along a row: `weights` holds the column weight of each value, channels and all. */

VECTORIZED
static void add_f32_i32(int32_t *sums, const float *values, const int32_t *weights, int32_t row_weight, float scale,
                        Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++)
        sums[i] += nearest(values[i] * scale) * (weights[i] * row_weight);
}

VECTORIZED
static void add_u8_i32(int32_t *sums, const uint8_t *values, const int32_t *weights, int32_t row_weight, float scale,
                       Py_ssize_t count)
{
    int32_t factor = row_weight * (int32_t)scale;
    for (Py_ssize_t i = 0; i < count; i++)
        sums[i] += values[i] * (weights[i] * factor);
}

VECTORIZED
static void add_u8_u16(uint16_t *sums, const uint8_t *values, const int32_t *weights, int32_t row_weight,
                       Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++)
        sums[i] = (uint16_t)(sums[i] + values[i] * (uint16_t)weights[i] * (uint16_t)row_weight);
}

VECTORIZED
static void round_f32(uint8_t *pixels, const float *values, float scale, Py_ssize_t count)
{
    float back = 1.0f / scale;
    for (Py_ssize_t i = 0; i < count; i++)
        pixels[i] = clipped(nearest((float)nearest(values[i] * scale) * back));
}

/* Where float32 holds every sum exactly (Blend.mean_dtype), it rounds each quotient right and is twice as fast. */

VECTORIZED
static void divide_i32_f32(uint8_t *pixels, const int32_t *sums, const int32_t *weights, float factor, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++)
        pixels[i] = clipped(nearest((float)sums[i] / ((float)weights[i] * factor)));
}

VECTORIZED
static void divide_u16_f32(uint8_t *pixels, const uint16_t *sums, const int32_t *weights, float factor,
                           Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++)
        pixels[i] = clipped(nearest((float)sums[i] / ((float)weights[i] * factor)));
}

VECTORIZED
static void divide_i32_f64(uint8_t *pixels, const int32_t *sums, const int32_t *weights, double factor,
                           Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        double shifted = (double)sums[i] / ((double)weights[i] * factor) + 6755399441055744.0;
        int64_t bits;
        memcpy(&bits, &shifted, sizeof bits);
        pixels[i] = clipped((int32_t)(bits - 0x4338000000000000LL));
    }
}

/* Arguments of Python, checked and held. */
typedef struct {
    Py_buffer views[9];
    int count;
} Held;

static void release(Held *held)
{
    while (held->count)
        PyBuffer_Release(&held->views[--held->count]);
}

/* Take an array of `ndim` axes whose items have one of `formats`, dense but for its first `loose` axes. */
static Py_buffer *hold(Held *held, PyObject *array, const char *name, int ndim, int loose, const char *formats,
                       int writable)
{
    Py_buffer *view = &held->views[held->count];
    if (PyObject_GetBuffer(array, view, PyBUF_STRIDES | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0)) < 0)
        return NULL;
    held->count++;
    int good = view->ndim == ndim && view->format && strlen(view->format) == 1 && strchr(formats, view->format[0]);
    Py_ssize_t step = view->itemsize;
    for (int axis = ndim - 1; good && axis >= loose; axis--) {
        good = view->strides[axis] == step || view->shape[axis] <= 1;
        step *= view->shape[axis];
    }
    if (good)
        return view;
    PyErr_Format(PyExc_TypeError, "%s: want a dense array of %d axes and one of the types '%s'", name, ndim, formats);
    return NULL;
}

/* Pixels along one axis of a window: how many of those before each are covered by several patches. */
typedef struct {
    const int32_t *packed;
    Py_ssize_t length;
} Axis;

static inline int is_multi(const Axis *axis, Py_ssize_t index)
{
    return axis->packed[index + 1] != axis->packed[index];
}

/* Cut [start, stop) into runs that are all single or all multi; where each ends. */
static Py_ssize_t cut(const Axis *axis, Py_ssize_t start, Py_ssize_t stop, Py_ssize_t *ends)
{
    Py_ssize_t count = 0;
    for (Py_ssize_t index = start; index < stop; index++) {
        if (index > start && is_multi(axis, index) != is_multi(axis, index - 1))
            ends[count++] = index;
        if (index + 1 == stop)
            ends[count++] = stop;
    }
    return count;
}

/* An accumulator: its image and the bands where several patches write. */
typedef struct {
    Axis rows, columns;
    Py_buffer *image, *across, *down;
    int small; /* whether sums have 16 bits */
} Target;

static int hold_target(Held *held, Target *target, PyObject *image, PyObject *across, PyObject *down,
                       PyObject *row_packed, PyObject *column_packed)
{
    Py_buffer *rows, *columns;
    if (!(target->image = hold(held, image, "image", 3, 1, "B", 1)) ||
        !(target->across = hold(held, across, "across", 3, 0, "Hil", 1)) ||
        !(target->down = hold(held, down, "down", 3, 0, "Hil", 1)) ||
        !(rows = hold(held, row_packed, "rows", 1, 0, "il", 0)) ||
        !(columns = hold(held, column_packed, "columns", 1, 0, "il", 0)))
        return 0;
    Py_ssize_t height = target->image->shape[0], width = target->image->shape[1];
    Py_ssize_t *a = target->across->shape, *d = target->down->shape;
    target->small = target->across->itemsize == 2;
    target->rows = (Axis){rows->buf, height};
    target->columns = (Axis){columns->buf, width};
    if (rows->itemsize == 4 && columns->itemsize == 4 && rows->shape[0] == height + 1 &&
        columns->shape[0] == width + 1 && target->image->shape[2] == CHANNELS && a[2] == CHANNELS &&
        d[2] == CHANNELS && a[0] == target->rows.packed[height] && a[1] == width && d[0] == height &&
        d[1] == target->columns.packed[width] && target->across->itemsize == target->down->itemsize &&
        (target->small || target->across->itemsize == 4))
        return 1;
    PyErr_SetString(PyExc_ValueError, "image, across, down: shapes or types do not fit the window");
    return 0;
}

static inline uint8_t *pixel_at(const Target *target, Py_ssize_t row, Py_ssize_t column)
{
    return (uint8_t *)target->image->buf + row * target->image->strides[0] + column * CHANNELS;
}

/* Of the band `across` at a row where several patches write, or of the band `down`. */
static inline char *sums_at(const Target *target, Py_ssize_t row, Py_ssize_t column)
{
    const Py_buffer *band = target->down;
    Py_ssize_t packed_row = row, packed_column = target->columns.packed[column];
    if (is_multi(&target->rows, row)) {
        band = target->across;
        packed_row = target->rows.packed[row];
        packed_column = column;
    }
    return (char *)band->buf + (packed_row * band->shape[1] + packed_column) * CHANNELS * band->itemsize;
}

/* Weights of one axis, each as often as a pixel has values. */
static int32_t *by_value(const int32_t *weights, Py_ssize_t count)
{
    int32_t *spread = malloc((size_t)(count * CHANNELS) * sizeof *spread);
    for (Py_ssize_t i = 0; spread && i < count * CHANNELS; i++)
        spread[i] = weights[i / CHANNELS];
    return spread;
}

/* A run of one row of one patch; `weights` is NULL where that patch writes alone. */
static void add_run(const Target *target, Py_ssize_t row, Py_ssize_t column, const char *values, int is_float,
                    const int32_t *weights, int32_t row_weight, float scale, Py_ssize_t pixels)
{
    Py_ssize_t count = pixels * CHANNELS;
    if (!weights && is_float)
        round_f32(pixel_at(target, row, column), (const float *)values, scale, count);
    else if (!weights)
        memcpy(pixel_at(target, row, column), values, (size_t)count);
    else if (is_float)
        add_f32_i32((int32_t *)sums_at(target, row, column), (const float *)values, weights, row_weight, scale, count);
    else if (target->small)
        add_u8_u16((uint16_t *)sums_at(target, row, column), (const uint8_t *)values, weights, row_weight, count);
    else
        add_u8_i32((int32_t *)sums_at(target, row, column), (const uint8_t *)values, weights, row_weight, scale, count);
}

/* A row of pixels, each the first three bytes of its label's entry. */
static void paint_row(uint8_t *pixel, const uint8_t *label, const uint32_t *packed, Py_ssize_t width)
{
    Py_ssize_t i = 0;
    /* Two pixels at once, in eight bytes: the next pixel overwrites the last two, and there must be one. */
    for (; i + 2 < width; i += 2, pixel += 2 * CHANNELS) {
        uint64_t two = packed[label[i]] | (uint64_t)packed[label[i + 1]] << 24;
        memcpy(pixel, &two, sizeof two);
    }
    for (; i < width; i++, pixel += CHANNELS)
        memcpy(pixel, &packed[label[i]], CHANNELS);
}

static void pack_colors(uint32_t *packed, const uint8_t *colors)
{
    memset(packed, 0, 256 * sizeof *packed);
    for (int label = 0; label < 256; label++)
        memcpy(&packed[label], colors + label * CHANNELS, CHANNELS);
}

/* What is the same for all patches of a call. `weights` has each column's weight once for every value. */
typedef struct {
    Py_ssize_t height, width;
    const int32_t *row_weights, *weights;
    float scale;
    Py_ssize_t *ends;       /* room for `width` runs */
    const uint32_t *packed; /* colours, where patches are labels; else NULL */
    uint8_t *line;          /* room for a row of pixels, there */
} Patches;

/* One patch, as far as it lies in the window, its first pixel at (y, x); its rows are `step` bytes apart. */
static void add_patch(const Target *target, const Patches *all, const char *values, Py_ssize_t itemsize,
                      Py_ssize_t step, Py_ssize_t y, Py_ssize_t x)
{
    Py_ssize_t left = x < 0 ? 0 : x, end = x + all->width;
    Py_ssize_t right = end < target->columns.length ? end : target->columns.length;
    if (left >= right)
        return;
    Py_ssize_t runs = cut(&target->columns, left, right, all->ends);
    for (Py_ssize_t i = y < 0 ? -y : 0; i < all->height && y + i < target->rows.length; i++) {
        int across = is_multi(&target->rows, y + i);
        Py_ssize_t column = left;
        for (Py_ssize_t run = across ? runs - 1 : 0; run < runs; run++) {
            int alone = !across && !is_multi(&target->columns, column);
            Py_ssize_t first = column - x, pixels = all->ends[run] - column;
            const char *from = values + i * step + first * (all->packed ? 1 : CHANNELS * itemsize);
            if (all->packed) {
                uint8_t *to = alone ? pixel_at(target, y + i, column) : all->line;
                paint_row(to, (const uint8_t *)from, all->packed, pixels);
                from = (const char *)all->line;
            }
            if (!all->packed || !alone)
                add_run(target, y + i, column, from, itemsize == 4, alone ? NULL : all->weights + first * CHANNELS,
                        all->row_weights[i], all->scale, pixels);
            column = all->ends[run];
        }
    }
}

/* Let go of everything; None, unless an error is set. */
static PyObject *finish(Held *held, int32_t *spread, Py_ssize_t *ends)
{
    free(spread);
    free(ends);
    release(held);
    return PyErr_Occurred() ? NULL : Py_BuildValue("");
}

static PyObject *add(PyObject *module, PyObject *args)
{
    PyObject *image, *across, *down, *row_packed, *column_packed, *patches, *weights;
    Py_ssize_t y, x, stride;
    int bits;
    Held held = {.count = 0};
    Target target;
    Py_buffer *values, *axis;
    (void)module;
    if (!PyArg_ParseTuple(args, "OOOOOOOnnni", &image, &across, &down, &row_packed, &column_packed, &patches, &weights,
                          &y, &x, &stride, &bits))
        return NULL;
    if (!hold_target(&held, &target, image, across, down, row_packed, column_packed) ||
        !(values = hold(&held, patches, "patches", 4, 1, "Bf", 0)) ||
        !(axis = hold(&held, weights, "weights", 1, 0, "il", 0))) {
        return finish(&held, NULL, NULL);
    }
    Py_ssize_t tile = axis->shape[0];
    Patches all = {tile, tile, axis->buf, NULL, (float)(1 << bits), NULL, NULL, NULL};
    int32_t *spread = NULL;
    if (axis->itemsize != 4 || values->shape[1] != tile || values->shape[2] != tile || values->shape[3] != CHANNELS ||
        bits < 0 || bits > 12 || (target.small && (values->itemsize != 1 || bits)))
        PyErr_SetString(PyExc_ValueError, "patches: shape or type does not fit weights, sums or bits");
    else if (!(spread = by_value(axis->buf, tile)) || !(all.ends = malloc((size_t)tile * sizeof *all.ends)))
        PyErr_NoMemory();
    if (all.ends) {
        all.weights = spread;
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t i = 0; i < values->shape[0]; i++)
            add_patch(&target, &all, (const char *)values->buf + i * values->strides[0], values->itemsize,
                      tile * CHANNELS * values->itemsize, y, x + i * stride);
        Py_END_ALLOW_THREADS
    }
    return finish(&held, spread, all.ends);
}

/* Patches that give each label its colour, side by side and one below the other, so alike where they overlap: as one large
 * patch, with the sum of their weights. */
static PyObject *add_labels(PyObject *module, PyObject *args)
{
    PyObject *image, *across, *down, *row_packed, *column_packed, *labels, *table, *row_weights, *column_weights;
    Py_ssize_t y, x;
    int bits;
    Held held = {.count = 0};
    Target target;
    Py_buffer *from, *colors, *rows, *columns;
    (void)module;
    if (!PyArg_ParseTuple(args, "OOOOOOOOOnni", &image, &across, &down, &row_packed, &column_packed, &labels, &table,
                          &row_weights, &column_weights, &y, &x, &bits))
        return NULL;
    if (!hold_target(&held, &target, image, across, down, row_packed, column_packed) ||
        !(from = hold(&held, labels, "labels", 2, 1, "B", 0)) ||
        !(colors = hold(&held, table, "colors", 2, 0, "B", 0)) ||
        !(rows = hold(&held, row_weights, "row_weights", 1, 0, "il", 0)) ||
        !(columns = hold(&held, column_weights, "column_weights", 1, 0, "il", 0)))
        return finish(&held, NULL, NULL);
    Py_ssize_t height = from->shape[0], width = from->shape[1];
    uint32_t packed[256];
    Patches all = {height, width, rows->buf, NULL, (float)(1 << bits), NULL, packed, NULL};
    int32_t *spread = NULL;
    if (rows->itemsize != 4 || columns->itemsize != 4 || rows->shape[0] != height || columns->shape[0] != width ||
        colors->shape[0] != 256 || colors->shape[1] != CHANNELS || bits < 0 || bits > 12 || (target.small && bits))
        PyErr_SetString(PyExc_ValueError, "labels: shape or type does not fit weights, colors, sums or bits");
    /* One piece of memory: the ends of runs, then a row of pixels. */
    else if (!(spread = by_value(columns->buf, width)) ||
             !(all.ends = malloc((size_t)width * (sizeof *all.ends + CHANNELS))))
        PyErr_NoMemory();
    if (all.ends) {
        pack_colors(packed, colors->buf);
        all.weights = spread;
        all.line = (uint8_t *)(all.ends + width);
        Py_BEGIN_ALLOW_THREADS
        add_patch(&target, &all, from->buf, 1, from->strides[0], y, x);
        Py_END_ALLOW_THREADS
    }
    return finish(&held, spread, all.ends);
}

static void divide_run(const Target *target, Py_ssize_t row, Py_ssize_t column, const int32_t *weights, double factor,
                       int narrow, Py_ssize_t pixels)
{
    uint8_t *to = pixel_at(target, row, column);
    const char *sums = sums_at(target, row, column);
    Py_ssize_t count = pixels * CHANNELS;
    if (target->small)
        divide_u16_f32(to, (const uint16_t *)sums, weights, (float)factor, count);
    else if (narrow)
        divide_i32_f32(to, (const int32_t *)sums, weights, (float)factor, count);
    else
        divide_i32_f64(to, (const int32_t *)sums, weights, factor, count);
}

static PyObject *divide(PyObject *module, PyObject *args)
{
    PyObject *image, *across, *down, *row_packed, *column_packed, *row_total, *column_total;
    int bits, narrow;
    Held held = {.count = 0};
    Target target;
    Py_buffer *rows, *columns;
    (void)module;
    if (!PyArg_ParseTuple(args, "OOOOOOOip", &image, &across, &down, &row_packed, &column_packed, &row_total,
                          &column_total, &bits, &narrow))
        return NULL;
    if (!hold_target(&held, &target, image, across, down, row_packed, column_packed) ||
        !(rows = hold(&held, row_total, "row_total", 1, 0, "il", 0)) ||
        !(columns = hold(&held, column_total, "column_total", 1, 0, "il", 0))) {
        return finish(&held, NULL, NULL);
    }
    Py_ssize_t width = target.columns.length, *ends = NULL;
    int32_t *spread = NULL;
    if (rows->itemsize != 4 || columns->itemsize != 4 || rows->shape[0] != target.rows.length ||
        columns->shape[0] != width)
        PyErr_SetString(PyExc_ValueError, "row_total, column_total: want an int32 for each row and column");
    else if (!(spread = by_value(columns->buf, width)) || !(ends = malloc((size_t)(width + 1) * sizeof *ends)))
        PyErr_NoMemory();
    if (ends) {
        Py_BEGIN_ALLOW_THREADS
        Py_ssize_t runs = cut(&target.columns, 0, width, ends);
        for (Py_ssize_t row = 0; runs && row < target.rows.length; row++) {
            double factor = (double)((const int32_t *)rows->buf)[row] * (1 << bits);
            int across = is_multi(&target.rows, row);
            Py_ssize_t column = 0;
            for (Py_ssize_t run = across ? runs - 1 : 0; run < runs; run++) {
                if (across || is_multi(&target.columns, column))
                    divide_run(&target, row, column, spread + column * CHANNELS, factor, narrow, ends[run] - column);
                column = ends[run];
            }
        }
        Py_END_ALLOW_THREADS
    }
    return finish(&held, spread, ends);
}

static PyObject *paint(PyObject *module, PyObject *args)
{
    PyObject *out, *labels, *table;
    Held held = {.count = 0};
    Py_buffer *to, *from, *colors;
    (void)module;
    if (!PyArg_ParseTuple(args, "OOO", &out, &labels, &table))
        return NULL;
    if (!(to = hold(&held, out, "out", 4, 0, "B", 1)) || !(from = hold(&held, labels, "labels", 3, 2, "B", 0)) ||
        !(colors = hold(&held, table, "table", 2, 0, "B", 0))) {
        return finish(&held, NULL, NULL);
    }
    Py_ssize_t width = from->shape[2];
    if (to->shape[0] != from->shape[0] || to->shape[1] != from->shape[1] || to->shape[2] != width ||
        to->shape[3] != CHANNELS || colors->shape[0] != 256 || colors->shape[1] != CHANNELS) {
        PyErr_SetString(PyExc_ValueError, "out, labels, table: shapes do not fit");
        return finish(&held, NULL, NULL);
    }
    Py_BEGIN_ALLOW_THREADS
    uint32_t packed[256];
    pack_colors(packed, colors->buf);
    for (Py_ssize_t row = 0; row < from->shape[0] * from->shape[1]; row++)
        paint_row((uint8_t *)to->buf + row * width * CHANNELS,
                  (const uint8_t *)from->buf + row / from->shape[1] * from->strides[0] +
                      row % from->shape[1] * from->strides[1],
                  packed, width);
    Py_END_ALLOW_THREADS
    return finish(&held, NULL, NULL);
}

/* Noise: see noise.py. Multiply-adds must not be fused there (setup.py), or bits would depend on the processor. */

VECTORIZED
static void white_row(float *to, const uint32_t *by_column, uint32_t by_row, const float *table, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        uint32_t value = by_row ^ by_column[i];
        value = (value ^ value >> 16) * 0x45D9F3Bu;
        value = (value ^ value >> 16) * 0x45D9F3Bu;
        to[i] = table[(value ^ value >> 16) >> 16];
    }
}

static PyObject *white(PyObject *module, PyObject *args)
{
    PyObject *out, *row_keys, *column_keys, *quantiles;
    Held held = {.count = 0};
    Py_buffer *to, *rows, *columns, *table;
    (void)module;
    if (!PyArg_ParseTuple(args, "OOOO", &out, &row_keys, &column_keys, &quantiles))
        return NULL;
    if (!(to = hold(&held, out, "out", 2, 0, "f", 1)) || !(rows = hold(&held, row_keys, "row_keys", 1, 0, "IL", 0)) ||
        !(columns = hold(&held, column_keys, "column_keys", 1, 0, "IL", 0)) ||
        !(table = hold(&held, quantiles, "quantiles", 1, 0, "f", 0)))
        return finish(&held, NULL, NULL);
    if (rows->itemsize != 4 || columns->itemsize != 4 || to->shape[0] != rows->shape[0] ||
        to->shape[1] != columns->shape[0] || table->shape[0] != 1 << 16) {
        PyErr_SetString(PyExc_ValueError, "out, row_keys, column_keys, quantiles: shapes or types do not fit");
        return finish(&held, NULL, NULL);
    }
    Py_BEGIN_ALLOW_THREADS
    for (Py_ssize_t row = 0; row < to->shape[0]; row++)
        white_row((float *)to->buf + row * to->shape[1], columns->buf, ((const uint32_t *)rows->buf)[row], table->buf,
                  to->shape[1]);
    Py_END_ALLOW_THREADS
    return finish(&held, NULL, NULL);
}

/* Four weights, [4, length], of the lattice nodes that begin at `first`. */
typedef struct {
    const int32_t *first;
    const float *weights;
    Py_ssize_t length;
} Spline;

static int hold_spline(Held *held, PyObject *first, PyObject *weights, Py_ssize_t nodes, Spline *spline)
{
    Py_buffer *starts = hold(held, first, "first", 1, 0, "il", 0);
    Py_buffer *values = starts ? hold(held, weights, "weights", 2, 0, "f", 0) : NULL;
    if (!values)
        return 0;
    *spline = (Spline){starts->buf, values->buf, starts->shape[0]};
    int good = starts->itemsize == 4 && values->shape[0] == 4 && values->shape[1] == spline->length;
    for (Py_ssize_t i = 0; good && i < spline->length; i++)
        good = spline->first[i] >= 0 && spline->first[i] + 4 <= nodes;
    if (!good)
        PyErr_SetString(PyExc_ValueError, "first, weights: shapes, types or nodes do not fit the lattice");
    return good;
}

VECTORIZED
static void mix_nodes(float *to, const float *a, const float *b, const float *c, const float *d, const float *weights,
                      Py_ssize_t step, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++)
        to[i] = weights[0] * a[i] + weights[step] * b[i] + weights[2 * step] * c[i] + weights[3 * step] * d[i];
}

VECTORIZED
static void mix_run(float *to, const float *nodes, const float *weights, Py_ssize_t step, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++)
        to[i] = weights[i] * nodes[0] + weights[step + i] * nodes[1] + weights[2 * step + i] * nodes[2] +
                weights[3 * step + i] * nodes[3];
}

static PyObject *smooth(PyObject *module, PyObject *args)
{
    PyObject *out, *lattice, *row_first, *row_weights, *column_first, *column_weights;
    Held held = {.count = 0};
    Py_buffer *to, *nodes;
    Spline rows, columns;
    (void)module;
    if (!PyArg_ParseTuple(args, "OOOOOO", &out, &lattice, &row_first, &row_weights, &column_first, &column_weights))
        return NULL;
    if (!(to = hold(&held, out, "out", 2, 0, "f", 1)) || !(nodes = hold(&held, lattice, "lattice", 2, 0, "f", 0)) ||
        !hold_spline(&held, row_first, row_weights, nodes->shape[0], &rows) ||
        !hold_spline(&held, column_first, column_weights, nodes->shape[1], &columns))
        return finish(&held, NULL, NULL);
    Py_ssize_t across = nodes->shape[1];
    float *down = NULL;
    if (to->shape[0] != rows.length || to->shape[1] != columns.length)
        PyErr_SetString(PyExc_ValueError, "out: its shape does not fit the weights");
    else if (!(down = malloc((size_t)across * sizeof *down)))
        PyErr_NoMemory();
    if (down) {
        Py_BEGIN_ALLOW_THREADS
        for (Py_ssize_t row = 0; row < rows.length; row++) {
            const float *top = (const float *)nodes->buf + rows.first[row] * across;
            mix_nodes(down, top, top + across, top + 2 * across, top + 3 * across, rows.weights + row, rows.length,
                      across);
            for (Py_ssize_t start = 0, stop; start < columns.length; start = stop) {
                stop = start + 1;
                while (stop < columns.length && columns.first[stop] == columns.first[start])
                    stop++;
                mix_run((float *)to->buf + row * columns.length + start, down + columns.first[start],
                        columns.weights + start, columns.length, stop - start);
            }
        }
        Py_END_ALLOW_THREADS
    }
    free(down);
    return finish(&held, NULL, NULL);
}

static PyMethodDef methods[] = {
    {"add", add, METH_VARARGS, "add(image, across, down, rows, columns, patches, weights, y, x, stride, bits)"},
    {"add_labels", add_labels, METH_VARARGS,
     "add_labels(image, across, down, rows, columns, labels, colors, row_weights, column_weights, y, x, bits)"},
    {"divide", divide, METH_VARARGS,
     "divide(image, across, down, rows, columns, row_total, column_total, bits, narrow)"},
    {"paint", paint, METH_VARARGS, "paint(out, labels, table)"},
    {"white", white, METH_VARARGS, "white(out, row_keys, column_keys, quantiles)"},
    {"smooth", smooth, METH_VARARGS,
     "smooth(out, lattice, row_first, row_weights, column_first, column_weights)"},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "Blending and noise, compiled; see accumulate.py and noise.py.", 0, methods, slots,
    NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
