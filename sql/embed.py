#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Writes the migrations, in order of their names, as one C array: embed.py SQL-FOLDER OUT.c DEPFILE. The folder is a dependency too: a
new migration is built in without being listed anywhere."""

import os
import sys


def embed(paths):
    lines = ['/* Made by sql/embed.py. */', '#include "daemon/store/migrations.h"', "",
             "const char *const store_migrations[] = {"]
    for number, path in enumerate(paths, 1):
        if not os.path.basename(path).startswith(f"{number:03}-"):
            sys.exit(f"{path}: migrations are numbered from 1 without a gap")
        with open(path, encoding="ascii") as f:
            for line in f:
                text = line.rstrip("\n").replace("\\", "\\\\").replace('"', '\\"')
                lines.append('\t"' + text + '\\n"')
        lines[-1] += ","
    lines += ["};", f"const int store_n_migrations = {len(paths)};", ""]
    return "\n".join(lines)


def main(folder, out, depfile):
    folder = os.path.normpath(folder)
    paths = sorted(os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".sql") and name[0] != ".")
    if not paths:
        sys.exit(f"{folder}: no migrations")
    with open(out, "w", encoding="ascii") as f:
        f.write(embed(paths))
    with open(depfile, "w", encoding="utf-8") as f:
        f.write(out + ": " + " ".join(p.replace(" ", "\\ ") for p in [folder, *paths]) + "\n")


main(*sys.argv[1:])
