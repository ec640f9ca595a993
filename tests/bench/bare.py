# SPDX-License-Identifier: MIT
"""The floor program (what bare QEMU and this kernel do on this host, now), its kernel and the image that we use too."""
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile

import pytest

import debian
from conftest import CACHE, SHARED

FLOOR = SHARED + "/bench/floor.py"


class Bare:
    """Makes machines of the floor: boot() gives one whose agent has answered and which has been set up."""

    def __init__(self, daemon):
        if not os.path.exists(FLOOR):
            pytest.skip("the floor program is not beside the project: ../shared/bench/floor.py")
        if debian.host_suite() != "bookworm":
            pytest.skip("the floor program reads Debian 12's kernel alone")
        self.kernel = CACHE + "/floor"
        if not os.path.exists(self.kernel + "/initrd"):
            subprocess.run([sys.executable, FLOOR, "kernel", self.kernel], check=True, timeout=300)
        spec = importlib.util.spec_from_file_location("floor", FLOOR)
        self.program = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.program)
        name = json.loads(daemon.pyro("--json", "env", "inspect", "debian:12").text)
        self.image = daemon.cache + "/" + name["digest"].replace(":", "-") + "/image.ext4"
        self.work = tempfile.mkdtemp(prefix="pyro-floor-")
        self.own = self.work + "/own"
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", self.own, "4G"], check=True, stdout=subprocess.DEVNULL)

    def boot(self):
        vm = self.program.Vm(self.kernel, self.work, self.image, self.work + "/ram", "on", own=self.own)
        try:
            vm.a = vm.dial("/ag")
            assert vm.a.recv(1) == b"r"
            vm.ready = vm.ms()
            vm.ask(b"s")
            return vm
        except BaseException:
            vm.end()
            raise

    @staticmethod
    def command(vm):
        """Milliseconds of `bash -c true` in it."""
        took = vm.ask(b"c")
        assert took >= 0
        return took

    def close(self):
        shutil.rmtree(self.work)
