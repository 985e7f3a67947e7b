"""From the bytes of a blob to the stored integers: header, codecs, coders of matrices, filters."""
