"""Configs by name: the files in `configs/`, and the experiments that its tables of papers describe.

`configs` lists and opens them; `find_config` takes what a user gives as CONFIG, a file or a name.
"""

from imagetok.named_configs.catalogue import Catalogue, NamedConfig, configs, find_config
from imagetok.named_configs.folder import configs_folder

__all__ = ["Catalogue", "NamedConfig", "configs", "configs_folder", "find_config"]
