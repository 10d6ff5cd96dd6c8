"""Plug-ins: modules of users that register targets, networks, objectives and more when they are imported."""

import importlib
import importlib.util
import sys
from pathlib import Path

from boltzflow.errors import ConfigError


def load(name: str) -> str:
    """Imports a plug-in.

    Args:
        name: name of a module, which may lie in the working directory, or path of a .py file.

    Returns:
        The name of the module, by which a run remembers it.

    Raises:
        ConfigError: if there is no such module or file, or importing it fails.
    """
    if name.endswith(".py"):
        return _from_file(Path(name))
    if name in sys.modules:
        return name
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0] and error.name != name:
            raise ConfigError(f"the plug-in {name} cannot be imported: it needs {error.name}, which is not installed.") from error
        raise ConfigError(
            f"the plug-in {name} is missing; install it, start where {name}.py lies, or name its file with `--plugin path/to/{name}.py`."
        ) from error
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"the plug-in {name} cannot be imported ({type(error).__name__}: {error}).") from error
    finally:
        sys.path.remove(here)
    return name


def _from_file(path: Path) -> str:
    """Imports a file as the module of its name."""
    name = path.stem
    there = sys.modules.get(name)
    if there is not None:
        file = getattr(there, "__file__", None)
        if file is not None and Path(file).resolve() == path.resolve():
            return name
        raise ConfigError(f"the plug-in {path} cannot be imported, because there is a module {name} already; give the file another name.")
    spec = importlib.util.spec_from_file_location(name, path)
    if not path.is_file() or spec is None or spec.loader is None or not name.isidentifier():
        raise ConfigError(f"there is no plug-in {path}; name a module, or a .py file whose name can be one.")
    module = importlib.util.module_from_spec(spec)
    # Its classes are looked up by the name of their module.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise (
            error
            if isinstance(error, ConfigError)
            else ConfigError(f"the plug-in {path} cannot be imported ({type(error).__name__}: {error}).")
        ) from error
    return name
