"""What pyproject.toml cannot say: the device profiles are shipped inside the package.

They lie in ``device_profiles/`` of a checkout, where people look for them and add boards; a wheel
carries them as ``edgeopt/device_profiles/``. `edgeopt.devices.profile.shipped_dir` knows both.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PROFILES = Path("device_profiles")


class BuildWithProfiles(build_py):
    """Copies the device profiles beside the modules."""

    def run(self) -> None:
        """Build as usual, then copy."""
        super().run()
        if not self.editable_mode:
            for source, target in self._profiles():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """What an uninstall has to remove."""
        copied = [] if self.editable_mode else [str(target) for _, target in self._profiles()]
        return [*super().get_outputs(include_bytecode), *copied]

    def _profiles(self) -> list[tuple[Path, Path]]:
        target = Path(self.build_lib) / "edgeopt" / "device_profiles"
        return [
            (path, target / path.relative_to(PROFILES))
            for path in sorted(PROFILES.rglob("*"))
            if path.is_file()
        ]


setup(cmdclass={"build_py": BuildWithProfiles})
