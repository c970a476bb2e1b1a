// What does Bio-Formats see in each slide? Run without a build step: java -cp bioformats_package.jar
// BioFormatsDump.java FOLDER FILE... For each file it prints one line "file|key=value|..." and writes the
// pixels of every level of the first series to FOLDER/N.LEVEL.raw (height x width x 3, as uint8).

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.StringJoiner;
import loci.common.DebugTools;
import loci.common.services.ServiceFactory;
import loci.formats.ImageReader;
import loci.formats.meta.IMetadata;
import loci.formats.services.OMEXMLService;
import ome.units.UNITS;
import ome.units.quantity.Length;

public class BioFormatsDump {
  public static void main(String[] args) throws Exception {
    DebugTools.setRootLevel("ERROR");
    for (int n = 1; n < args.length; n++) {
      String line;
      try {
        line = dump(args[n], Path.of(args[0]), n - 1);
      } catch (Exception e) {
        line = "error=" + e;
      }
      System.out.println(args[n] + "|" + line.replace("\n", " "));
    }
  }

  static String dump(String file, Path folder, int number) throws Exception {
    OMEXMLService service = new ServiceFactory().getInstance(OMEXMLService.class);
    IMetadata metadata = service.createOMEXMLMetadata();
    StringJoiner line = new StringJoiner("|");
    try (ImageReader reader = new ImageReader()) {
      reader.setFlattenedResolutions(false);
      reader.setMetadataStore(metadata);
      reader.setId(file);
      line.add("format=" + reader.getFormat());
      line.add("series=" + reader.getSeriesCount());
      line.add("rgb=" + reader.getRGBChannelCount());
      StringJoiner levels = new StringJoiner(",");
      for (int level = 0; level < reader.getResolutionCount(); level++) {
        reader.setResolution(level);
        levels.add(reader.getSizeY() + "x" + reader.getSizeX());
        Files.write(folder.resolve(number + "." + level + ".raw"), interleaved(reader));
      }
      line.add("levels=" + levels);
      Length size = metadata.getPixelsPhysicalSizeX(0);
      line.add("mpp=" + (size == null ? "" : size.value(UNITS.MICROMETER)));
      boolean objective = metadata.getInstrumentCount() > 0 && metadata.getObjectiveCount(0) > 0;
      line.add("power=" + (objective ? metadata.getObjectiveNominalMagnification(0, 0) : ""));
    }
    return line.toString();
  }

  static byte[] interleaved(ImageReader reader) throws Exception {
    byte[] plane = reader.openBytes(0);
    if (reader.isInterleaved()) {
      return plane;
    }
    int pixels = plane.length / 3;
    byte[] pairs = new byte[plane.length];
    for (int i = 0; i < plane.length; i++) {
      pairs[i % pixels * 3 + i / pixels] = plane[i];
    }
    return pairs;
  }
}
