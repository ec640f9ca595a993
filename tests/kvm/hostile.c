/* SPDX-License-Identifier: MIT */
/*
 * A VMM that uses all it can get, put in QEMU's place by limits.py. HOSTILE_cpu, HOSTILE_tasks or
 * HOSTILE_memory says of what. It has threads only, because its sandbox refuses processes, and is
 * not a script, because its sandbox runs no interpreter.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(HOSTILE_cpu)

static void *use_cpu(void *unused)
{
	volatile unsigned long rounds = 0;

	(void)unused;
	for (;;)
		rounds++;
	return NULL;
}

#elif defined(HOSTILE_tasks)

static void *wait_minute(void *unused)
{
	sleep(60);
	return unused;
}

#else

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

#endif

#if defined(HOSTILE_cpu) || defined(HOSTILE_tasks)

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

#endif

int main(int argc, char **argv)
{
	/* pyrod runs no program that does not name QEMU's version. */
	if (argc == 2 && strcmp(argv[1], "--version") == 0) {
		puts("QEMU emulator version 7.2.22 (hostile)");
		return 0;
	}
#if defined(HOSTILE_cpu)
	start_threads(4, use_cpu);
#elif defined(HOSTILE_tasks)
	start_threads(2000, wait_minute);
#else
	use_memory();
#endif
	sleep(60);
	return 1;
}
