/* SPDX-License-Identifier: MIT */
/*
 * The writer thread: a queue of file operations, completion by eventfd. Made and freed by
 * manager.c, used by agent/transcript-op.c.
 *
 * What must stay true: the thread reads and writes only the operation that it has taken;
 * operations run and complete in the order in which they were queued; at the end the queue is
 * finished, so that what was accepted is written.
 */

#include "daemon/writer.h"

#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>

TAILQ_HEAD(op_list, writer_op);

struct writer {
	sd_event *event; /* borrowed: the manager */
	pthread_t thread;
	bool thread_runs;
	int event_fd;                /* owned */
	sd_event_source *done_event; /* owned */

	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct op_list queue; /* under lock */
	struct op_list done;  /* under lock */
	bool stop;            /* under lock */
};

static void *writer_main(void *arg)
{
	struct writer *w = arg;
	struct writer_op *op;

	pthread_mutex_lock(&w->lock);
	for (;;) {
		while (TAILQ_EMPTY(&w->queue) && !w->stop)
			pthread_cond_wait(&w->wake, &w->lock);
		op = TAILQ_FIRST(&w->queue);
		if (!op)
			break;
		TAILQ_REMOVE(&w->queue, op, entry);
		op->taken = true;
		pthread_mutex_unlock(&w->lock);
		op->run(op);
		pthread_mutex_lock(&w->lock);
		TAILQ_INSERT_TAIL(&w->done, op, entry);
		(void)eventfd_write(w->event_fd, 1);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

static int on_done(
	_unused_ sd_event_source *source, int fd, _unused_ uint32_t revents, void *userdata)
{
	struct writer *w = userdata;
	struct op_list done = TAILQ_HEAD_INITIALIZER(done);
	struct writer_op *op;
	eventfd_t count;

	(void)eventfd_read(fd, &count);
	pthread_mutex_lock(&w->lock);
	TAILQ_CONCAT(&done, &w->done, entry);
	pthread_mutex_unlock(&w->lock);
	while ((op = TAILQ_FIRST(&done))) {
		TAILQ_REMOVE(&done, op, entry);
		if (op->done)
			op->done(op);
		op->free(op);
	}
	return 0;
}

/* Starts the thread with all signals blocked: they belong to the loop. A write beyond
 * RLIMIT_FSIZE is then an error of that operation alone. */
static int start_thread(struct writer *w)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&w->thread, NULL, writer_main, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	w->thread_runs = r == 0;
	return -r;
}

int writer_new(sd_event *event, struct writer **ret)
{
	_cleanup_(writer_freep) struct writer *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return -ENOMEM;
	TAILQ_INIT(&w->queue);
	TAILQ_INIT(&w->done);
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->wake, NULL);
	w->event = event;
	w->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (w->event_fd < 0)
		return -errno;
	r = sd_event_add_io(event, &w->done_event, w->event_fd, EPOLLIN, on_done, w);
	if (r >= 0)
		r = start_thread(w);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(w);
	return 0;
}

struct writer *writer_free(struct writer *w)
{
	struct writer_op *op;

	if (!w)
		return NULL;
	if (w->thread_runs) {
		pthread_mutex_lock(&w->lock);
		w->stop = true;
		pthread_cond_signal(&w->wake);
		pthread_mutex_unlock(&w->lock);
		pthread_join(w->thread, NULL);
	}
	while ((op = TAILQ_FIRST(&w->done))) {
		TAILQ_REMOVE(&w->done, op, entry);
		op->free(op);
	}
	sd_event_source_disable_unref(w->done_event);
	fd_close(w->event_fd);
	pthread_cond_destroy(&w->wake);
	pthread_mutex_destroy(&w->lock);
	free(w);
	return NULL;
}

void writer_queue(struct writer *w, struct writer_op *op)
{
	op->taken = false;
	pthread_mutex_lock(&w->lock);
	TAILQ_INSERT_TAIL(&w->queue, op, entry);
	pthread_cond_signal(&w->wake);
	pthread_mutex_unlock(&w->lock);
}

bool writer_cancel(struct writer *w, struct writer_op *op)
{
	bool waits;

	pthread_mutex_lock(&w->lock);
	waits = !op->taken;
	if (waits)
		TAILQ_REMOVE(&w->queue, op, entry);
	pthread_mutex_unlock(&w->lock);
	if (waits)
		op->free(op);
	return waits;
}

sd_event *writer_event(const struct writer *w)
{
	return w->event;
}
