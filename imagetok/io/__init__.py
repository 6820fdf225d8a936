"""Files and URLs: bounded reading, temporary files, output paths, time limits, redaction."""
