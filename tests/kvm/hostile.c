/* SPDX-License-Identifier: MIT */
/*
 * A VMM that uses all it can get, put in QEMU's place by limits.py. Which resource it takes is the end of its name: hostile-cpu,
 * hostile-tasks or hostile-memory. It has threads only, because its sandbox refuses processes, and is not a script, because its
 * sandbox runs no interpreter.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *use_cpu(void *unused)
{
	volatile unsigned long rounds = 0;

	(void)unused;
	for (;;)
		rounds++;
	return NULL;
}

static void *wait_minute(void *unused)
{
	sleep(60);
	return unused;
}

static void start_threads(int wanted, void *(*body)(void *))
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 64 << 10);
	for (int i = 0; i < wanted; i++)
		if (pthread_create(&thread, &attr, body, NULL) != 0)
			usleep(10000);
}

/* In steps, so that who samples its memory sees it grow. */
static void use_memory(void)
{
	enum { STEP = 16 << 20 };
	char *p;

	while ((p = malloc(STEP)) != NULL) {
		memset(p, 'x', STEP);
		usleep(20000);
	}
}

int main(int argc, char **argv)
{
	const char *what = strrchr(argv[0], '-');

	/* pyrod runs no program that does not name QEMU's version. */
	if (argc == 2 && strcmp(argv[1], "--version") == 0) {
		puts("QEMU emulator version 7.2.22 (hostile)");
		return 0;
	}
	if (what && strcmp(what, "-cpu") == 0)
		start_threads(4, use_cpu);
	else if (what && strcmp(what, "-tasks") == 0)
		start_threads(2000, wait_minute);
	else if (what && strcmp(what, "-memory") == 0)
		use_memory();
	sleep(60);
	return 1;
}
