#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Writes the migrations, in order of their names, as one C array: embed.py OUT.c NNN-NAME.sql..."""

import os
import sys


def main(out, *paths):
    lines = ['/* Made by sql/embed.py. */', '#include "daemon/store/migrations.h"', "",
             "const char *const store_migrations[] = {"]
    for number, path in enumerate(sorted(paths, key=os.path.basename), 1):
        if int(os.path.basename(path).split("-")[0]) != number:
            sys.exit(f"{path}: migrations are numbered from 1 without a gap")
        with open(path, encoding="ascii") as f:
            for line in f:
                text = line.rstrip("\n").replace("\\", "\\\\").replace('"', '\\"')
                lines.append('\t"' + text + '\\n"')
        lines[-1] += ","
    lines += ["};", f"const int store_n_migrations = {len(paths)};", ""]
    with open(out, "w", encoding="ascii") as f:
        f.write("\n".join(lines))


main(*sys.argv[1:])
