"""What would a slide show here, without rendering the rest of it?"""
