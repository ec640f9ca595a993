# SPDX-License-Identifier: MIT
"""What the black-box tests share: a daemon with directories of its own, the client, and the check that nothing is left. Builds
come from tests/run (PYRO_TEST_BUILD, PYRO_TEST_BUILD_ASAN); the environments are kept between runs (PYRO_TEST_CACHE), since a
pull takes minutes. pytest always runs in tests/hermetic, however it was started."""
import contextlib
import fcntl
import functools
import importlib.machinery
import importlib.util
import json
import os
import pwd
import resource
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time

import pytest

# A shell starts a background job (in CI, for example) with SIGINT ignored, and pyro keeps ignoring a signal that it finds ignored:
# give the programs under test the signal settings that they have on a terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT):
    signal.signal(number, signal.SIG_DFL)

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.environ.get("PYRO_TEST_BUILD", TOP + "/build-release")
BUILD_ASAN = os.environ.get("PYRO_TEST_BUILD_ASAN", TOP + "/build-asan")
CACHE = os.environ.get("PYRO_TEST_CACHE", TOP + "/.cache")
SHARED = os.path.join(os.path.dirname(TOP), "shared")
N = int(os.environ.get("PYRO_TEST_N", "1"))  # tests/soak multiplies


# Put before a command: it then runs on a host that is not Debian and has no Debian mirror configured.
NOT_DEBIAN = ["unshare", "--mount", "--", "sh", "-c", 'mount --bind /dev/null /etc/os-release && exec "$@"', "sh"]


def hermetic():
    """tests/hermetic as a module."""
    loader = importlib.machinery.SourceFileLoader("hermetic", TOP + "/tests/hermetic")
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def scratch_place():
    """Where tests create their directories: the first place into which files of the cache can be hard-linked."""
    os.makedirs(CACHE, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=CACHE, prefix=".link-") as f:
        for place in (os.environ.get("TMPDIR"), "/tmp", "/var/tmp", CACHE + "/tmp"):
            if place == CACHE + "/tmp":
                os.makedirs(place, exist_ok=True)
            try:
                os.link(f.name, "%s/%s" % (place, os.path.basename(f.name)))
                os.unlink("%s/%s" % (place, os.path.basename(f.name)))
                return place
            except OSError:
                continue
    raise RuntimeError("no place for the tests' directories: %s allows no hard links" % CACHE)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    # The tests of tests/kvm run inside a machine of their own and test what is installed there.
    if not os.environ.get("PYRO_TEST_INSTALLED"):
        if not hermetic().is_inside():
            capture = config.pluginmanager.getplugin("capturemanager")
            if capture:
                capture.stop_global_capturing()  # it has moved descriptors 0 to 2
            os.execv(TOP + "/tests/hermetic", ["hermetic", sys.executable, "-m", "pytest", *map(str, config.invocation_params.args)])
        os.environ["TMPDIR"] = tempfile.tempdir = scratch_place()
    config.addinivalue_line("markers", "kvm: run by tests/kvm too, under KVM and systemd")
    config.addinivalue_line("markers", "soak: minutes long; left out by tests/run")
    config.addinivalue_line("markers", "xdist_group(name): by one worker")


def copy_links(source, target):
    """Adds the installed environments of one cache to another, as hard links: an installed image is never written again. A cache
    belongs to one daemon."""
    os.makedirs(target, exist_ok=True)
    for name in sorted(os.listdir(source), key=lambda name: name.endswith(".json")):
        old, new = target + "/" + name, target + "/.new-%d" % os.getpid()
        if name.startswith(".") or (os.path.exists(old) and (not name.endswith(".json") or os.path.samefile(source + "/" + name, old))):
            continue
        if name.endswith(".json"):  # it names the image: the image of a newer pull replaces the older one
            os.link(source + "/" + name, new)
            os.replace(new, old)
        else:
            subprocess.run(["cp", "-al", source + "/" + name, target + "/"], check=True)


# These files' tests add and remove users, which would change the imports of daemons in other files.
TOGETHER = ("test_quickstart.py", "test_broken_hosts.py", "test_environments.py")


# The files that take longest, the longest first (reports of tests/run have the seconds of each file): workers take files in this
# order, so that no worker ends with a long file alone.
LONGEST = ("test_run.py", *sorted(TOGETHER), "test_limits.py", "test_adopt.py", "test_damage.py", "test_vm.py", "test_load.py", "test_boots.py",
           "test_attackers.py", "test_integrity.py", "test_hostile_agent.py", "test_image.py", "test_hostile_images.py", "test_cli.py",
           "test_kills.py", "test_docs.py", "test_crash_points.py")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks groups for pytest-xdist's loadgroup: a file's tests share their daemon, so one worker runs them."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
    for item in items:
        item.add_marker(pytest.mark.xdist_group("users" if item.path.name in TOGETHER else item.path.name))


def assert_no_faults(log):
    """No sanitizer reported anything, each answer matched the table, and each error has a fix."""
    for words in ("AddressSanitizer", "LeakSanitizer", "runtime error:", "is not as api.c says", "an error without a fix"):
        assert words not in log, log


def keep(**figures):
    """Prints figures and adds them to build-test-results/bench.json."""
    path = TOP + "/build-test-results/bench.json"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    old = json.load(open(path)) if os.path.exists(path) else {}
    old.update(figures)
    json.dump(old, open(path, "w"), indent=1, sort_keys=True)
    print(json.dumps(figures, sort_keys=True))


def stage(build):
    return build + "/stage/usr/local"


@functools.cache
def is_test_build(build):
    """Whether the build's programs read deadlines from their environment (proto/deadline.h)."""
    return b"PYRO_DEADLINES" in open(stage(build) + "/bin/pyrod", "rb").read()


@functools.cache
def table(name):
    """The rows of one of the project's tables (tests/t/tables.c), as lists of words."""
    out = subprocess.run([BUILD_ASAN + "/tests/t/tables", name], check=True, capture_output=True, text=True).stdout
    return [line.split("\t") for line in out.splitlines()]


class Result:
    def __init__(self, status, out, err, seconds):
        self.status, self.out, self.err, self.seconds = status, out, err, seconds

    @property
    def text(self):
        return self.out.decode("utf-8", "replace")

    @property
    def errors(self):
        return self.err.decode("utf-8", "replace")

    def __repr__(self):
        return "status=%s\n-- stdout\n%s\n-- stderr\n%s" % (self.status, self.text[-2000:], self.errors[-4000:])


class Daemon:
    """One pyrod with its own state directory, runtime directory and socket; start() waits for READY=1, not for a time."""

    def __init__(self, root, build=BUILD, env=None, kernels=None, mode="--system", deadlines=None):
        """deadlines: seconds by name (proto/deadline.h), for a test build only."""
        self.root, self.build, self.mode = root, build, mode
        self.state, self.runtime = root + "/state", root + "/run"
        self.socket = self.runtime + "/pyrod.sock"
        self.log = root + "/pyrod.log"
        self.process = None
        self.prefix = []  # a command that becomes the daemon (unshare, ...)
        os.makedirs(self.state, 0o700, exist_ok=True)
        os.makedirs(self.runtime, 0o755, exist_ok=True)
        self.cache = root + "/environments"
        if os.path.isdir(CACHE + "/environments") and not os.path.isdir(self.cache):
            copy_links(CACHE + "/environments", self.cache)
        if kernels and os.path.isdir(kernels) and not os.path.isdir(self.state + "/kernels"):
            subprocess.run(["cp", "-al", kernels, self.state + "/kernels"], check=True)
        self.env = dict(
            os.environ,
            PYRO_STATE_DIR=self.state,
            PYRO_RUNTIME_DIR=self.runtime,
            PYRO_ENVIRONMENT_CACHE_DIR=self.cache,
            PYRO_LIBEXEC_DIR=stage(build) + "/libexec/pyro",
            PYRO_AGENT=stage(BUILD) + "/libexec/pyro/pyro-agent",
            LD_LIBRARY_PATH=stage(build) + "/lib/x86_64-linux-gnu:" + stage(build) + "/lib",
            ASAN_OPTIONS="detect_leaks=1:abort_on_error=0",
        )
        if deadlines:
            assert is_test_build(build), build + " takes no deadlines"
            self.env["PYRO_DEADLINES"] = ",".join("%s=%d" % (name, 1000 * seconds) for name, seconds in deadlines.items())
        self.env.update(env or {})

    def start(self, *args, wait=30):
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        name = "\0pyro-test-" + os.urandom(8).hex()  # a process that was forked meanwhile may still hold the one of an earlier start
        notify.bind(name)
        env = dict(self.env, NOTIFY_SOCKET="@" + name[1:])
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, stage(self.build) + "/bin/pyrod", self.mode, "--socket", self.socket, *args],
                env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        end = time.monotonic() + wait
        pidfd = os.pidfd_open(self.process.pid)
        try:
            while True:
                ready, _, _ = select.select([notify, pidfd], [], [], max(0, end - time.monotonic()))
                if notify in ready:
                    if b"READY=1" in notify.recv(4096):
                        return self
                    continue
                raise RuntimeError("pyrod did not become ready\n" + self.log_text())
        finally:
            os.close(pidfd)
            notify.close()

    def exec_with(self, listener, *args, **env):
        """Starts another process of this daemon as systemd does, with the listening socket as descriptor 3; returns its pid."""
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()  # in a session of its own the scheduler gives it a share like a service's
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                fd = listener.fileno()
                os.set_inheritable(3, True) if fd == 3 else os.dup2(fd, 3)
                log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                os.dup2(log, 1)
                os.dup2(log, 2)
                program = stage(self.build) + "/bin/pyrod"
                os.execve(program, [program, self.mode, *args], dict(self.env, LISTEN_FDS="1", LISTEN_PID=str(os.getpid()), **env))
            finally:
                os._exit(127)
        return pid

    def stop(self, sig=signal.SIGTERM, wait=20):
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(sig)
        status = self.process.wait(timeout=wait)
        self.process = None
        return status

    def log_text(self):
        try:
            return open(self.log, errors="replace").read()[-20000:]
        except FileNotFoundError:
            return ""

    def client_env(self, **more):
        return dict(self.env, PYRO_SOCKET=self.socket, **more)

    def command(self, *args):
        return [stage(self.build) + "/bin/pyro", *args]

    def pyro(self, *args, input=None, timeout=120, env=None, **kw):
        begin = time.monotonic()
        p = subprocess.run(self.command(*args), env=self.client_env(**(env or {})), timeout=timeout, capture_output=True,
                           **({"stdin": subprocess.DEVNULL} if input is None else {"input": input}), **kw)
        return Result(p.returncode, p.stdout, p.stderr, time.monotonic() - begin)

    def popen(self, *args, env=None, **kw):
        return subprocess.Popen(self.command(*args), env=self.client_env(**(env or {})), **kw)

    def call(self, method, params=None, timeout=30):
        """Makes one call on a connection of its own; returns the reply object."""
        with Raw(self.socket, timeout) as raw:
            return raw.call(method, params)

    def rows(self, sql, *args):
        """Reads rows of the store, from a copy of it."""
        with tempfile.TemporaryDirectory(prefix="pyro-store-") as place:
            for name in ("pyro.db", "pyro.db-wal"):
                if os.path.exists(self.state + "/" + name):
                    shutil.copy(self.state + "/" + name, place)
            with contextlib.closing(sqlite3.connect(place + "/pyro.db")) as db:
                return db.execute(sql, args).fetchall()

    def vms(self):
        return self.call("vm.list", {"all_users": os.getuid() == 0})["result"]["vms"]

    def workspaces(self):
        return self.call("workspace.list", {"all_users": os.getuid() == 0})["result"]["workspaces"]

    def residue(self):
        """What machines leave while they exist: rows, directories, sockets, processes."""
        found = ["row " + v["vm_id"] for v in self.vms()] + ["row " + w["workspace_id"] for w in self.workspaces()]
        for place in (self.state + "/machines", self.runtime + "/vm"):
            if os.path.isdir(place):
                found += [place + "/" + name for name in os.listdir(place)]
        return found + ["pid %d %s" % (pid, what) for pid, what in self.processes()]

    def pid(self):
        return self.process.pid if self.process else None

    def processes(self):
        """Children of the daemon: VMMs, launchers and jobs (their parent is the daemon, or their command line names its
        directories)."""
        found, daemon = [], self.pid() or -1
        for name in os.listdir("/proc"):
            if not name.isdigit() or int(name) == daemon:
                continue
            try:
                words = open("/proc/%s/cmdline" % name, "rb").read().split(b"\0")
                parent = int(open("/proc/%s/stat" % name).read().rsplit(")", 1)[1].split()[1])
                state = open("/proc/%s/stat" % name).read().rsplit(")", 1)[1].split()[0]
                comm = open("/proc/%s/comm" % name).read().strip()  # receiver processes are kept for the next descriptor
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state == "Z" or comm == "pyrod-receiver":
                continue
            program = os.path.basename(words[0].decode(errors="replace"))
            if parent == daemon:
                found.append((int(name), program))
        return found

    def wait_clean(self, seconds=15):
        """Waits until nothing of any machine is left; watches directory events, at most until the deadline."""
        end = time.monotonic() + seconds
        while True:
            left = self.residue()
            if not left:
                return
            if time.monotonic() > end:
                raise AssertionError("left behind: %s\n%s" % (left, self.log_text()[-3000:]))
            select.select([], [], [], 0.05)

    def vmm_pids(self):
        """VMMs of its machines, started by this daemon or one before it, whatever process is their parent now."""
        place, found = self.state + "/machines", []
        ids = [vm.encode() for vm in os.listdir(place)] if os.path.isdir(place) else []
        for name in os.listdir("/proc"):
            try:
                words = open("/proc/%s/cmdline" % name, "rb").read().split(b"\0") if name.isdigit() else [b""]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if b"qemu-system" in words[0] and any(vm in words for vm in ids):
                found.append(int(name))
        return found

    def close(self):
        """Ends the test: machines outlive their daemon, so those that a failed test left are ended too."""
        self.stop()
        for pid in self.vmm_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def vm_hwm_kib(self):
        for line in open("/proc/%d/status" % self.pid()):
            if line.startswith("VmHWM"):
                return int(line.split()[1])
        raise AssertionError("no VmHWM")

    def rss_kib(self):
        for line in open("/proc/%d/status" % self.pid()):
            if line.startswith("VmRSS"):
                return int(line.split()[1])
        raise AssertionError("no VmRSS")


class Installed(Daemon):
    """The pyrod of this system, installed and run by systemd; its clients are a user of group pyro."""

    def __init__(self, user):
        account = pwd.getpwnam(user)
        self.state, self.runtime, self.prefix = "/var/lib/pyro", "/run/pyro", []
        self.cache = self.state + "/environments"
        self.socket = self.runtime + "/pyrod.sock"
        self.env = dict(os.environ, HOME=account.pw_dir, USER=user, LOGNAME=user)
        self.become = ["setpriv", "--reuid=%d" % account.pw_uid, "--regid=%d" % account.pw_gid, "--init-groups", "--inh-caps=-all", "--"]

    def start(self):
        subprocess.run(["systemctl", "start", "pyrod.service"], check=True)
        return self

    def stop(self):
        subprocess.run(["systemctl", "stop", "pyrod.service"], check=True)

    def pid(self):
        shown = subprocess.run(["systemctl", "show", "-P", "MainPID", "pyrod.service"], check=True, capture_output=True, text=True)
        return int(shown.stdout)

    def log_text(self):
        return subprocess.run(["journalctl", "-u", "pyrod.service", "--no-pager", "-n", "200"], capture_output=True, text=True).stdout

    def command(self, *args):
        return [*self.become, "pyro", *args]


def wait_for(condition, seconds=60):
    """For what gives no event, such as a line in a log."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


class Raw:
    """A client that sends lines, valid or not."""

    def __init__(self, path, timeout=30):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout)
        self.sock.connect(path)
        self.buffer = b""
        self.id = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def send(self, data):
        self.sock.sendall(data)

    def line(self):
        while b"\n" not in self.buffer:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError("closed after %r" % self.buffer[:200])
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)

    def call(self, method, params=None):
        self.id += 1
        self.send(json.dumps({"jsonrpc": "2.0", "id": self.id, "method": method, "params": params or {}}).encode() + b"\n")
        while True:
            reply = self.line()
            if reply.get("id") == self.id:
                return reply


@pytest.fixture(scope="session")
def root_only():
    if os.getuid() != 0:
        pytest.skip("needs root")


@pytest.fixture(scope="session")
def work():
    path = tempfile.mkdtemp(prefix="pyro-test-")
    os.chmod(path, 0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def locked(path):
    """Lets in one process at a time: tests/run has several workers."""
    with open(path, "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def fill_cache(work):
    """Puts debian:12 as the catalog has it and a kernel into the cache; what is there and up to date is not pulled again."""
    os.makedirs(CACHE, exist_ok=True)
    with locked(CACHE + "/lock"):
        pull_into_cache(work + "/installed")


def pull_into_cache(root):
    d = Daemon(root, kernels=CACHE + "/kernels").start()
    pulled = d.pyro("env", "pull", "debian:12", timeout=900)
    d.stop()
    assert pulled.status == 0, pulled
    if not os.path.isdir(CACHE + "/kernels"):
        subprocess.run(["cp", "-a", d.state + "/kernels", CACHE + "/.kernels"], check=True)
        os.rename(CACHE + "/.kernels", CACHE + "/kernels")  # tests/bench/floor.py may read it at this moment
    copy_links(d.cache, CACHE + "/environments")


@pytest.fixture(scope="session")
def installed(work):
    """Fills the cache: a daemon of any build can then create machines at once."""
    fill_cache(work)
    return CACHE + "/environments/debian:12.json"


@pytest.fixture(scope="session")
def daemon(request, work):
    """The release daemon that tests with guests share; debian:12 is installed in its cache. With PYRO_TEST_INSTALLED=USER it is
    this system's pyrod."""
    if os.environ.get("PYRO_TEST_INSTALLED"):
        yield Installed(os.environ["PYRO_TEST_INSTALLED"]).start()
        return
    request.getfixturevalue("installed")
    d = Daemon(work + "/shared", kernels=CACHE + "/kernels")
    d.start()
    yield d
    try:
        d.wait_clean()  # including a job that prepares something for the next machine
    finally:
        d.close()
    assert_no_faults(d.log_text())


@pytest.fixture(scope="session")
def floor(daemon):
    """What bare QEMU does with pyro's kernel and image (tests/bench/floor.py)."""
    sys.path.insert(0, TOP + "/tests/bench")
    from floor import Floor
    digest = json.loads(daemon.pyro("--json", "env", "inspect", "debian:12").text)["digest"]
    made = Floor(CACHE + "/floor", daemon.cache + "/" + digest.replace(":", "-") + "/image.ext4")
    yield made
    made.close()


@pytest.fixture
def make_daemon(tmp_path_factory):
    """Makes further daemons (not started): make_daemon(build=..., env=...)."""
    made = []

    def make(**kw):
        root = tempfile.mkdtemp(prefix="pyro-test-")
        os.chmod(root, 0o755)
        kw.setdefault("kernels", CACHE + "/kernels")
        made.append(Daemon(root, **kw))
        return made[-1]

    yield make
    for d in made:
        d.close()
        text = d.log_text()
        shutil.rmtree(d.root, ignore_errors=True)
        assert_no_faults(text)


@pytest.fixture
def make_fake():
    """Makes daemons whose machines have the fake VMM (not started): make_fake(build=..., conf=[...])."""
    from fakevm import FakeDaemon
    made = []

    def make(**kw):
        made.append(FakeDaemon(tempfile.mkdtemp(prefix="pyro-test-"), **kw))
        return made[-1]

    yield make
    for d in made:
        d.close()
        text = d.log_text()
        shutil.rmtree(d.root, ignore_errors=True)
        assert_no_faults(text)


@pytest.fixture(params=["release", "asan"])
def fake(request, make_fake):
    return make_fake(build=BUILD if request.param == "release" else BUILD_ASAN).start()
