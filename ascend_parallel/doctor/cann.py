"""CANN: its environment, its version, and whether the driver is new enough for it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .context import Context
from .driver import DRIVER
from .finding import Finding, failure, ok, warning
from .host import Host, compare_versions

TITLE = "CANN"
#: Where CANN is installed by default, the newer layout first.
HOMES = ("/usr/local/Ascend/cann", "/usr/local/Ascend/ascend-toolkit", "/usr/local/Ascend/nnrt")
#: What programs load: from CANN, and from the driver.
LIBRARIES = ("libascendcl.so", "libascend_hal.so")
#: Where the driver's installation tells the system's loader to look.
DRIVER_FOLDERS = ("/usr/local/Ascend/driver/lib64", "/usr/local/Ascend/driver/lib64/driver")
PARTS = ("runtime", "toolkit", "compiler", "opp")


def check(context: Context) -> Iterator[Finding]:
    """Yield the findings of this layer; none where nothing has to do with Ascend."""
    if not context.has_ascend:
        return
    home = context.host.environ.get("ASCEND_HOME_PATH", "")
    yield check_home(context.host, home)
    if home and context.host.exists(home):
        yield check_version(context.host, home)
        yield check_opp(context.host, home)
    yield from (check_library(context.host, name) for name in LIBRARIES)


def check_home(host: Host, home: str) -> Finding:
    """Check that set_env.sh was sourced, and that what it names is there."""
    scripts = [f"{place}/set_env.sh" for place in HOMES if host.exists(f"{place}/set_env.sh")]
    source = (
        f"run: source {scripts[0]}"
        if scripts
        else "install CANN (toolkit or nnrt, and kernels), then source its set_env.sh"
    )
    if not home:
        return failure("ASCEND_HOME_PATH", "it is not set: set_env.sh was not sourced in this shell", source)
    if not host.exists(home):
        return failure("ASCEND_HOME_PATH", f"there is no {home}", source)
    return ok("ASCEND_HOME_PATH", home)


def check_version(host: Host, home: str) -> Finding:
    """Tell CANN's version; compare what it requires of the driver with what the driver has."""
    parts = [host.read_settings(f"{home}/{part}/version.info") for part in PARTS]
    version = next((part.get("version_dir", part.get("Version", "")) for part in parts if part), "") or _old_version(
        host, home
    )
    if not version:
        return warning("version", "no version.info tells it", "install CANN again if models do not run")
    required = next(
        (p["required_driver_ascendhal_version"] for p in parts if "required_driver_ascendhal_version" in p), ""
    )
    driver = host.read_settings(DRIVER)
    has = driver.get("ascendhal_version", "")
    if required and has and compare_versions(has, required) < 0:
        seen = (
            f"{version}, which requires ascendhal {required}; the driver {driver.get('package_version', '')} has {has}"
        )
        return failure("version", seen, "install a newer driver and firmware: CANN's release notes name them")
    return ok(
        "version", version + (f"; the driver's ascendhal {has} is enough" if required and has else ""), version=version
    )


def _old_version(host: Host, home: str) -> str:
    """Return the version as some packages tell it: ``aarch64-linux/ascend_toolkit_install.info``, ``version.cfg``."""
    for machine in ("aarch64-linux", "x86_64-linux"):
        version = host.read_settings(f"{home}/{machine}/ascend_toolkit_install.info").get("version", "")
        if version:
            return version
    found = re.search(r"_running_version=\[([^\]]+)\]", host.read(f"{home}/version.cfg"))
    return found[1].rpartition(":")[2] if found else ""


def check_opp(host: Host, home: str) -> Finding:
    """Check that the operators' package is where CANN looks for it."""
    opp = host.environ.get("ASCEND_OPP_PATH", f"{home}/opp")
    if host.exists(opp):
        return ok("operators (opp)", opp)
    return failure(
        "operators (opp)", f"there is no {opp}", "install CANN's kernels package for this chip (Ascend-cann-kernels)"
    )


def check_library(host: Host, name: str) -> Finding:
    """Check that the loader finds a library by LD_LIBRARY_PATH, or where the driver puts it."""
    listed = [folder for folder in host.environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    for folder in (*listed, *DRIVER_FOLDERS):
        if host.exists(f"{folder}/{name}"):
            return ok(name, f"in {folder}")
    if name == LIBRARIES[0]:
        return failure(name, "no folder of LD_LIBRARY_PATH has it", "source CANN's set_env.sh in this shell")
    advice = "install the driver; in a container, mount /usr/local/Ascend/driver"
    return failure(name, "neither LD_LIBRARY_PATH nor the driver's folders have it", advice)
