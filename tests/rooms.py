# SPDX-License-Identifier: MIT
"""The rooms of the code and what each may use (docs/ARCHITECTURE.md). Read by tests/lint/layers, which looks at includes, and by
tests/loops, which looks at symbols."""

# Each room and the rooms below that it may use, in addition to itself.
ALLOWED = {
    "proto": set(),
    "guest": {"proto"},
    "client": {"proto"},
    "daemon": {"proto"},
    "daemon/store": {"proto", "daemon", "sql"},
    "daemon/image": {"proto", "daemon", "daemon/import"},
    "daemon/import": {"proto", "daemon"},
    "daemon/vmm": {"proto", "daemon"},
    "daemon/agent": {"proto", "daemon"},
    "daemon/machine": {"proto", "daemon", "daemon/store", "daemon/image", "daemon/vmm", "daemon/agent"},
    "daemon/core": {"proto", "daemon", "daemon/store", "daemon/image", "daemon/machine", "daemon/agent"},
    "daemon/rpc": {"proto", "daemon", "daemon/core", "daemon/machine", "daemon/vmm", "daemon/image", "daemon/store"},
}
# Places of which only some headers may be included: what two programs agree on, and how a process is started.
HEADERS = {
    ("daemon/image", "daemon/import"): {"contract"},
    ("daemon/import", "daemon"): {"child", "filter", "handover", "landlock", "launch-msg", "namespaces", "remove", "rlimits", "sock"},
}
# main.c and manager.c put the whole daemon together.
TOP = {"daemon/main.c", "daemon/manager.c"}
# Rooms of which only some headers are public: those that the rooms above include.
PUBLIC = {"daemon/machine": {"machine.h", "limit.h", "proof.h"}}
