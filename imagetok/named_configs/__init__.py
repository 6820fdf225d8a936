"""Named configs: the files in `configs/`, and the experiments in its sheets of papers' tables.

`configs` lists and opens them; `find_config` opens a config by file or name.
"""

from imagetok.named_configs.catalogue import Catalogue, NamedConfig, configs, find_config
from imagetok.named_configs.folder import configs_folder

__all__ = ["Catalogue", "NamedConfig", "configs", "configs_folder", "find_config"]
