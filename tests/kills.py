# SPDX-License-Identifier: MIT
"""kill -9 at random moments of pyrod, VMMs, clients and imports under a mixed workload, and what must be true after each: what
was acknowledged exists, nothing is orphaned, the store is intact, a new pyrod answers soon, every caller got an answer. Used
with the fake VMM (tests/t/test_kills.py, tests/soak kills) and with real guests (tests/soak kills-vm)."""
import json
import os
import random
import re
import select
import signal
import subprocess
import threading
import time

from conftest import stage
from fakevm import lines

ENV = "debian:12"
CALL_SECONDS = 200  # no call takes as long as this, whatever was killed
# The errors that a call may get when something that it needed was killed; any other is a finding.
TOLD = {"outcome_unknown", "daemon_unreachable", "guest_died", "guest_unresponsive", "start_failed", "cancelled", "vm_not_found",
        "workspace_not_found", "wrong_state", "exec_not_found", "pull_failed"}
KEPT = re.compile(r"^(lock|running|pyro\.db(-wal|-shm)?|disks(/blank-\d+\.ext4)?|kernels(/.*)?|machines(/(vm|ws)-[0-9a-f]{12}(/disk\.ext4)?)?|"
                  r"transcripts(/ws-[0-9a-f]{12}(/ex-[0-9a-f]{12}\.\d{4})?)?)$")
ANY = {"created", "started", "stopped", "failed"}  # the states of a machine after an operation whose outcome is not known


def noun_of(id):
    return "workspace" if id.startswith("ws-") else "vm"


class Fake:
    """Commands for the fake VMM."""
    flags = ("-m", "200M")
    quiet_output = 1 << 21
    between = 0.25  # seconds from one kill to the next, at most
    grace = 45      # the longest time until unwanted machines are deleted: one-shots wait for their caller

    @staticmethod
    def command(n, code, msec=0):
        return ["print %d; sleep %d; print %d; exit %d" % (n, msec + 1, n, code)]

    @staticmethod
    def is_vmm(d, words):
        return words[0] == d.vmm.encode() and b"-uuid" in words


class Real:
    """The same for a guest with a shell."""
    flags = ("-m", "256M")
    quiet_output = 1 << 20
    between = 6
    grace = 150  # an interrupted boot gets its full time

    @staticmethod
    def command(n, code, msec=0):
        out = "seq -f %%015.0f 0 %d | head -c %d" % (n // 16 + 1, n)
        return ["%s; sleep %.3f; %s; exit %d" % (out, msec / 1000, out, code)]

    @staticmethod
    def is_vmm(d, words):
        return b"qemu-system" in words[0] and b"-uuid" in words


def read_words(pid):
    try:
        return open("/proc/%s/cmdline" % pid, "rb").read().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return [b""]


def parent_of(pid):
    try:
        stat = open("/proc/%s/stat" % pid).read().rsplit(")", 1)[1].split()
        return (0, "Z") if stat[0] == "Z" else (int(stat[1]), stat[0])
    except (FileNotFoundError, ProcessLookupError):
        return 0, "Z"


def comm_of(pid):
    try:
        return open("/proc/%s/comm" % pid).read().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


class Workload:
    def __init__(self, d, seed, guest=Fake, workers=3, standing=3):
        self.d, self.seed, self.guest, self.n_workers, self.standing = d, seed, guest, workers, standing
        self.rng = random.Random(seed)
        self.lock = threading.Lock()
        self.machines = {}    # acknowledged creations, of workspaces too: id -> the states its last acknowledged call allows
        self.names = {}       # of the workspaces among them
        self.free = []        # names of workspaces whose deletion was acknowledged: another may have them
        self.labels = {}      # id -> the values that the label v of a workspace may have
        self.numbers = 0
        self.commands = {}    # of workspaces, whose end was acknowledged: exec id -> (workspace, exit code, bytes of output)
        self.busy = set()     # those of them that a worker uses now
        self.doubtful = set() # deletions whose outcome is not known
        self.clients = {}     # pid -> Popen: running clients
        self.killed = set()   # pids of clients that were killed
        self.failures = []
        self.stop = threading.Event()
        self.up = threading.Event()  # pyrod serves; cleared before a kill, so that workers do not poll meanwhile
        self.up.set()
        self.codes = {}        # code -> count
        self.kills = {"pyrod": 0, "vmm": 0, "client": 0, "import": 0}
        self.history = []     # what happened, for the report
        self.answers = []     # seconds from exec of pyrod to ping
        self.execs = []       # seconds of a bare exec of pyrod right afterwards: the host's share at that moment
        self.ops = 0
        self.threads = []

    # --- clients

    def client(self, *args):
        """One call by the command line: (status, stdout, error code or None); None when the client was killed."""
        p = subprocess.Popen(self.d.command(*args), env=self.d.client_env(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, start_new_session=True)
        with self.lock:
            self.clients[p.pid] = p
            self.ops += 1
        try:
            out, err = p.communicate(timeout=CALL_SECONDS)
        except subprocess.TimeoutExpired:
            self.fail("no answer in %d s: %s" % (CALL_SECONDS, args))
            p.kill()
            out, err = p.communicate()
        with self.lock:
            del self.clients[p.pid]
            if p.pid in self.killed:
                return None
        code = None
        if args[0] == "--json" and p.returncode != 0:
            try:
                reply = json.loads(out)
                code = None if "exit_code" in reply else reply["error"]["code"]
            except (ValueError, KeyError):
                self.fail("status %d without an error: %s\n%r\n%r" % (p.returncode, args, out[-500:], err[-500:]))
            self.note(code, args, out)
        return p.returncode, out, code, err

    def happened(self, text):
        self.history.append("%.3f %s" % (time.monotonic(), text))

    def report(self, found):
        ids = set(re.findall(r"(?:vm|ws)-[0-9a-f]{12}", found))
        first = min([i for i, line in enumerate(self.history) if any(x in line for x in ids)], default=0)
        story = [line for line in self.history[first:] if any(i in line for i in ids) or "kill pyrod" in line or "settled" in line]
        return "seed %d: %s\n%s\n%s\n%s" % (self.seed, found, "\n".join(story[-120:]), json.dumps(self.list(), indent=1), self.d.log_text()[-6000:])

    def note(self, code, args, detail):
        with self.lock:
            self.codes[code] = self.codes.get(code, 0) + 1
        if code is not None and code not in TOLD:
            self.fail("%s failed with %s: %r" % (args, code, detail[-800:]))

    def fail(self, text):
        with self.lock:
            self.failures.append(text)
        self.stop.set()

    # --- what the workers do

    def op_run(self, rng):
        n, code = rng.choice((0, 10, 100000, self.guest.quiet_output)), rng.randrange(4)
        msec = rng.choice((0, 0, 100, 400))
        # Live output: the client must print exactly what it was given, either all of it or the beginning and a reason.
        result = self.client("run", *self.guest.flags, "--disk-mib", str(rng.choice((64, 65, 66 + rng.randrange(64)))), ENV, "--",
                             *self.guest.command(n, code, msec))
        if result is None:
            return
        status, out, _, err = result
        want = lines(n) * 2
        if status == 125:
            if b"pyro: " not in err:
                self.fail("run failed without a message: %r" % err)
            if not want.startswith(out):
                self.fail("run's output is not a beginning of what was printed (%d bytes): %r" % (len(out), err[-500:]))
        elif status != code:
            self.fail("run ended with %d, not %d: %r" % (status, code, err[-500:]))
        elif out != want:
            self.fail("run gave %d bytes of %d, all of them: %s" % (len(out), len(want), want.startswith(out)))

    def op_create(self, rng):
        with self.lock:
            if len(self.machines) >= self.standing:
                return
        result = self.client("--json", "vm", "create", *self.guest.flags, "--ttl-seconds", "0", "--disk-mib", str(rng.choice((64, 66 + rng.randrange(64)))), ENV)
        if result and result[0] == 0:
            with self.lock:
                vm = json.loads(result[1])["vm_id"]
                self.happened("create " + vm)
                self.machines[vm] = {"created"}

    def op_workspace(self, rng):
        """A new workspace, with a new name or with that of a deleted one."""
        with self.lock:
            if len(self.machines) >= self.standing:
                return
            name = self.free.pop() if self.free and rng.random() < 0.7 else None
            again = name is not None
            self.numbers += 1
            name = name or "w%d" % self.numbers
        result = self.client("--json", "workspace", "create", *self.guest.flags, "--name", name, "--label", "v=0", "--disk-mib",
                             str(rng.choice((64, 66 + rng.randrange(64)))), ENV)
        if result and result[0] == 0:
            with self.lock:
                ws = json.loads(result[1])["workspace_id"]
                self.happened("create %s as %s, %s" % (ws, name, "again" if again else "first"))
                # A VMM may have been killed since: then it failed and reports it.
                self.machines[ws], self.names[ws], self.labels[ws] = {"started", "failed"}, name, {"0"}

    def take(self, rng):
        with self.lock:
            free = sorted(set(self.machines) - self.busy)
            if not free:
                return None
            vm = rng.choice(free)
            self.busy.add(vm)
            return vm

    def op_machine(self, rng):
        vm = self.take(rng)
        if vm is None:
            return self.op_create(rng)
        try:
            noun = noun_of(vm)
            if noun == "workspace" and rng.random() < 0.5:
                return self.op_command(rng, vm)
            verb = rng.choice(("start", "start", "stop", "delete", "exec" if noun == "vm" else "update", "status"))
            args = ("--", *self.guest.command(1000, 3)) if verb == "exec" else ()
            if verb == "update":
                with self.lock:
                    self.numbers += 1
                    value = str(self.numbers)
                    self.labels[vm].add(value)
                args = ("--label", "v=" + value)
            result = self.client("--json", noun, verb, vm, *args)
            with self.lock:
                if verb == "update" and result is not None and result[2] is None:
                    self.labels[vm] = {value}
                self.happened("%s %s: %s" % (verb, vm, result and (result[0], result[2])))
                self.account(vm, verb, result)
        finally:
            with self.lock:
                self.busy.discard(vm)

    def op_command(self, rng, ws):
        """A command of a workspace, which starts the machine if need be: what is acknowledged is whole, and stays."""
        n, code = rng.choice((0, 10, 100000)), rng.randrange(4)
        result = self.client("--json", "workspace", "exec", ws, "--", *self.guest.command(n, code, rng.choice((0, 0, 100))))
        with self.lock:
            self.happened("command in %s: %s" % (ws, result and (result[0], result[2])))
            self.machines[ws] |= {"started", "failed"}
            if result is None or result[2] is not None:
                return
            reply = json.loads(result[1])
            if (reply["exit_code"], reply["stdout_bytes"], reply["stdout"].encode()) != (code, 2 * n, lines(n) * 2):
                self.failures.append("a command gave %s, not exit %d and %d bytes" % ({k: v for k, v in reply.items() if k != "stdout"}, code, 2 * n))
                self.stop.set()
            self.commands[reply["exec_id"]] = ws, code, 2 * n

    def lost_commands(self, ids):
        """Acknowledged ends that are no longer there, or are not the same."""
        found = []
        self.commands = {ex: c for ex, c in self.commands.items() if c[0] in ids}
        for ws in {c[0] for c in self.commands.values()}:
            execs = {x["exec_id"]: x for x in self.d.call("exec.list", {"workspace_id": ws})["result"]["execs"]}
            if sorted(x["sequence"] for x in execs.values()) != list(range(1, len(execs) + 1)):
                found.append("%s has the commands %s" % (ws, sorted(x["sequence"] for x in execs.values())))
            for ex, (of, code, n) in self.commands.items():
                x = execs.get(ex, {})
                if of == ws and (x.get("state"), x.get("exit_code"), x.get("stdout_bytes")) != ("exited", code, n):
                    found.append("%s of %s is %s, not exit %d with %d bytes" % (ex, ws, x, code, n))
            found += ["%s of %s is still %s" % (x["exec_id"], ws, x["state"]) for x in execs.values() if x["state"] not in ("exited", "lost")]
        return found

    def account(self, vm, verb, result):
        ok = result is not None and result[2] is None
        gone = result is not None and result[2] == noun_of(vm) + "_not_found"
        if gone and vm not in self.doubtful:
            self.failures.append("%s %s: an acknowledged machine is not found" % (verb, vm))
            self.stop.set()
        if verb in ("delete", "exec"):
            if ok or gone:
                del self.machines[vm]
                self.doubtful.discard(vm)
                self.labels.pop(vm, None)
                self.free += [self.names.pop(vm)] if vm in self.names else []
            else:
                self.doubtful.add(vm)
                self.machines[vm] = set(ANY)  # an exec may have booted it and run nothing
        elif ok and verb in ("start", "stop"):
            # A VMM may have been killed since: then the machine failed and reports it.
            self.machines[vm] = {"started", "failed"} if verb == "start" else {"stopped", "created", "failed"}
        elif verb not in ("status", "update"):
            self.machines[vm] = set(ANY)

    def op_look(self, rng):
        result = self.client("--json", *rng.choice((("vm", "list"), ("workspace", "list"), ("env", "list"), ("vm", "reap-expired"))))
        listed = json.loads(result[1]) if result and result[0] == 0 else {}
        for noun in ("vm", "workspace"):
            if noun + "s" not in listed:
                continue
            seen = {v[noun + "_id"] for v in listed[noun + "s"]}
            with self.lock:
                lost = {id for id in self.machines if noun_of(id) == noun} - seen - self.doubtful - self.busy
            # The list is older than the ledger: only machines that existed before count.
            for vm in lost & self.known_before:
                self.fail("%s was acknowledged and is not in the list" % vm)

    known_before = frozenset()

    def work(self, number):
        rng = random.Random("%d %d" % (self.seed, number))
        while not self.stop.is_set():
            self.up.wait()
            rng.choice((self.op_run, self.op_run, self.op_machine, self.op_machine, self.op_machine, self.op_create, self.op_workspace, self.op_look))(rng)

    def begin(self):
        self.stop.clear()
        self.generation = getattr(self, "generation", 0) + 1
        self.threads = [threading.Thread(target=self.work, args=(self.generation * 100 + i,), daemon=True) for i in range(self.n_workers)]
        for t in self.threads:
            t.start()

    def end(self):
        self.stop.set()
        for t in self.threads:
            t.join(CALL_SECONDS * 2)
            assert not t.is_alive(), "a worker hangs"

    # --- the killer

    def vmms(self):
        """pid -> machine id, of this daemon's machines whatever process is the VMMs' parent."""
        found = {}
        for name in os.listdir("/proc"):
            words = read_words(name) if name.isdigit() else [b""]
            if self.guest.is_vmm(self.d, words) and os.path.isdir(self.d.state + "/machines"):
                vm = words[words.index(b"-name") + 1].decode()
                if self.guest is Fake or os.path.isdir(self.d.state + "/machines/" + vm) or os.path.isdir(self.d.runtime + "/vm/" + vm):
                    found[int(name)] = vm
        return found

    def kill_pyrod(self):
        d = self.d
        self.up.clear()
        d.process.kill()
        d.process.wait()
        d.process = None
        self.check_store()
        begin = time.monotonic()
        d.start()
        pong = d.call("system.ping")
        self.answers.append(time.monotonic() - begin)
        begin = time.monotonic()
        subprocess.run([stage(d.build) + "/bin/pyrod", "--version"], env=d.env, check=True, stdout=subprocess.DEVNULL)
        self.execs.append(time.monotonic() - begin)
        self.up.set()
        assert pong["result"]["pid"] == d.process.pid

    def kill_vmm(self):
        found = self.vmms()
        if not found:
            return False
        pid = self.rng.choice(sorted(found))
        return self.send_kill(pid)

    def send_kill(self, pid):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def kill_client(self):
        with self.lock:
            if not self.clients:
                return False
            pid = self.rng.choice(sorted(self.clients))
            if self.clients[pid].poll() is not None:
                return False
            self.killed.add(pid)
            self.clients[pid].kill()
        return True

    def kill_import(self):
        """Waits for an import, or for a launcher before it becomes a VMM, since they live for milliseconds."""
        end = time.monotonic() + 2
        while time.monotonic() < end and not self.stop.is_set():
            for pid, program in self.children():
                if program in ("pyro-import", "pyro-vmm"):
                    return self.send_kill(pid)
        return False

    def children(self):
        me = self.d.process.pid
        return [(int(n), os.path.basename(read_words(n)[0].decode(errors="replace"))) for n in os.listdir("/proc")
                if n.isdigit() and parent_of(n)[0] == me]

    def one_kill(self):
        self.stop.wait(self.rng.random() * self.guest.between)
        what = self.rng.choice(("pyrod", "pyrod", "pyrod", "vmm", "vmm", "import", "client"))
        self.happened("kill " + what)
        done = getattr(self, "kill_" + what)() is not False
        self.kills[what] += done
        return done

    # --- what must be true

    def check_store(self):
        """Checks a copy, so that the next step tests the daemon's own recovery."""
        assert self.d.rows("PRAGMA quick_check") == [("ok",)]

    def list(self):
        return {**{v["vm_id"]: v for v in self.d.vms()}, **{w["workspace_id"]: w for w in self.d.workspaces()}}

    def left_over(self):
        """What exists and should not, or should exist and does not, now that there are no calls."""
        vms, found = self.list(), []
        with self.lock:
            want = set(self.machines)
        for vm in want - set(vms) - self.doubtful:
            found.append("%s was acknowledged and is gone" % vm)
        for vm in set(vms) - want:
            # A creation that no caller learned of belongs to its owner nevertheless; all else is a one-shot in its grace time.
            if vms[vm]["state"] not in ({"created", "started", "failed"} if noun_of(vm) == "workspace" else {"created"}):
                found.append("%s is left as %s" % (vm, vms[vm]["state"]))
        for vm in want & set(vms):
            if vms[vm]["state"] not in self.machines[vm] | ({"failed", "stopped"} if self.kills["vmm"] else set()):
                found.append("%s is %s and should be one of %s: %s" % (vm, vms[vm]["state"], self.machines[vm], vms[vm]["last_error"]))
            if vm in self.names and (vms[vm]["name"] != self.names[vm] or vms[vm]["labels"]["v"] not in self.labels[vm]):
                found.append("%s is %s with %s and should be %s with one of %s" % (vm, vms[vm]["name"], vms[vm]["labels"], self.names[vm],
                                                                                   self.labels[vm]))
            if vms[vm]["state"] == "failed" and not vms[vm]["last_error"]:
                found.append("%s failed and does not say why" % vm)
        running = {vm for vm in vms if vms[vm]["state"] == "started"}
        vmms = list(self.vmms().values())
        if sorted(vmms) != sorted(running):
            found.append("VMMs of %s, machines started %s" % (sorted(vmms), sorted(running)))
        found += self.wrong_files(set(vms), running) + self.wrong_processes() + self.lost_commands(set(vms))
        return found

    def wrong_files(self, ids, running):
        found = []
        for top, dirs, files in os.walk(self.d.state):
            for name in dirs + files:
                path = os.path.relpath(top + "/" + name, self.d.state)
                if not KEPT.match(path) or "/.staging" in path or path.endswith(".part"):
                    found.append("file " + path)
        here = set(os.listdir(self.d.state + "/machines")) if os.path.isdir(self.d.state + "/machines") else set()
        there = set(os.listdir(self.d.runtime + "/vm")) if os.path.isdir(self.d.runtime + "/vm") else set()
        kept = set(os.listdir(self.d.state + "/transcripts"))
        if kept - ids:
            found.append("transcripts of %s, machines %s" % (sorted(kept), sorted(ids)))
        if here != ids:
            found.append("folders of %s, machines %s" % (sorted(here), sorted(ids)))
        if there != running:
            found.append("sockets of %s, machines started %s" % (sorted(there), sorted(running)))
        found += ["mount " + line.split()[1] for line in open("/proc/self/mounts") if self.d.root in line]
        return found

    def receivers(self):
        """Processes of this pyrod: receivers are kept for the next descriptor. One of a previous pyrod is left over."""
        return {int(n) for n in os.listdir("/proc") if n.isdigit() and parent_of(n)[0] == self.d.process.pid and comm_of(n) == "pyrod-receiver"}

    def wrong_processes(self):
        known = {self.d.process.pid, os.getpid()} | set(self.vmms()) | self.receivers()
        mark = self.d.root.encode()
        return ["process %s %s" % (n, words[0]) for n in os.listdir("/proc") if n.isdigit() and int(n) not in known
                for words in [read_words(n)] if any(mark in w for w in words) and parent_of(n)[1] != "Z"]

    def settle(self):
        """Without calls, everything is as it should be within the time of a one-shot's grace."""
        self.end()
        assert not self.failures, self.report("\n".join(self.failures))
        end = time.monotonic() + self.guest.grace
        while True:
            found = self.left_over()
            if not found:
                break
            assert time.monotonic() < end, self.report("\n".join(found))
            select.select([], [], [], 0.1)
        with self.lock:
            vms = self.list()
            self.machines = {vm: {v["state"]} for vm, v in vms.items()}
            self.doubtful &= set(vms)  # an abandoned exec deletes its machine only after its grace
            self.names = {id: v["name"] for id, v in vms.items() if noun_of(id) == "workspace"}
            self.labels = {id: {vms[id]["labels"]["v"]} for id in self.names}
            self.killed.clear()
            self.happened("settled with %s" % {vm: v["state"] for vm, v in vms.items()})
        # More machines than wanted: creations that no caller learned of.
        for vm in sorted(self.machines)[self.standing:]:
            assert self.d.pyro(noun_of(vm), "delete", vm).status == 0
            del self.machines[vm]
            self.names.pop(vm, None)
        self.known_before = frozenset(self.machines)

    def go(self, kills, every=30, deadline=None):
        done = 0  # `every`: a killed client's machine waits ten seconds for it, and so does each wait for rest

        while done < kills and (deadline is None or time.monotonic() < deadline):
            self.begin()
            until = min(kills, done + every)
            while done < until and not self.stop.is_set():
                done += self.one_kill()
            self.settle()
        for vm in sorted(self.list()):
            assert self.d.pyro(noun_of(vm), "delete", vm).status == 0
        self.machines.clear()
        self.d.wait_clean(self.guest.grace)
        self.check_end()
        return self.summary()

    def check_end(self):
        assert self.d.stop() == 0
        self.check_store()
        self.d.start()

    def answered_soon(self):
        """Within one second (the acceptance limit), or within twenty times a bare exec on a busy host."""
        return all(answer <= max(1, 20 * bare) for answer, bare in zip(self.answers, self.execs, strict=True))

    def summary(self):
        a = sorted(self.answers) or [0]
        return "seed %d: kills %s, %d calls, errors %s, ping after exec: median %.0f ms, worst %.0f ms" % (
            self.seed, self.kills, self.ops, {k: v for k, v in self.codes.items() if k}, 1000 * a[len(a) // 2], 1000 * a[-1])
