"""The launchers' schemas under names of their own, so that files in ``conf/hydra/launcher`` can have the launchers' names.

Hydra matches a file with the schema of the same name, but warns each time that this will go away.
"""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin


class LauncherSchemas(SearchPathPlugin):
    """Rename the schemas when Hydra has found every plugin and has composed nothing yet: it asks its search path plugins then."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Leave the search path as it is."""
        launchers = ConfigStore.instance().repo["hydra"]["launcher"]
        for name in ("joblib", "submitit_local"):
            if f"{name}.yaml" in launchers:
                launchers[f"{name}_schema.yaml"] = launchers.pop(f"{name}.yaml")
