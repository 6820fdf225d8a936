"""Data-parallel processes: connecting, checking that they agree, and noticing a lost one."""
