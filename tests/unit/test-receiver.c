/* SPDX-License-Identifier: MIT */
/*
 * Untrusted sockets: what may be read, what a receiver keeps and closes, and that no descriptor
 * sent to pyrod can block it. The descriptor whose close blocks is a TCP socket with SO_LINGER and
 * unsent bytes.
 */

#include "daemon/receiver.h"

#include <check.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "proto/fdpass.h"

#define LINGER_SECONDS 20
#define AT_ONCE_USEC \
	(5 * USEC_PER_SEC) /* far below LINGER_SECONDS, far above any scheduler's delay */

static sd_event *event;
static struct receivers *rs;
static int pair[2]; /* pyrod's end, the peer's end */
static struct received got;
static char bytes[256];
static unsigned n_got;
static struct receiver_user me;

static void setup(void)
{
	ck_assert_int_ge(sd_event_new(&event), 0);
	ck_assert_int_eq(receivers_new(event, &rs), 0);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	ck_assert_int_eq(receivers_prepare(pair[0]), 0);
	got = (struct received){ 0 };
	n_got = 0;
	me = (struct receiver_user){ getuid(), getuid() };
}

static void teardown(void)
{
	receivers_close(rs, TAKE_FD(pair[0]), false);
	fd_close(pair[1]);
	for (size_t i = 0; i < got.n_fds; i++)
		fd_close(got.fds[i]);
	rs = receivers_free(rs);
	event = sd_event_unref(event);
}

static void on_received(struct received *rc, _unused_ void *userdata)
{
	got = *rc;
	n_got++;
	ck_assert_uint_lt(rc->n, sizeof(bytes));
	if (rc->n > 0)
		memcpy(bytes, rc->bytes, rc->n);
	for (size_t i = 0; i < rc->n_fds; i++)
		rc->fds[i] = -EBADF;
}

static void run_until(unsigned n)
{
	uint64_t end = now_usec() + 30 * USEC_PER_SEC;

	while (n_got < n && now_usec() < end)
		ck_assert_int_ge(sd_event_run(event, USEC_PER_SEC), 0);
	ck_assert_uint_eq(n_got, n);
}

static void begin(int fd)
{
	struct receipt *rt;

	ck_assert_int_eq(receipt_new(rs, &me, fd, sizeof(bytes), on_received, NULL, &rt), 0);
}

/* Makes a connected socket with more unsent bytes than the peer takes. */
static int lingering(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	const struct linger l = { .l_onoff = 1, .l_linger = LINGER_SECONDS };
	_cleanup_close_ int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	static const char block[65536];
	socklen_t size = sizeof(a);

	ck_assert_int_eq(bind(server, (struct sockaddr *)&a, size), 0);
	ck_assert_int_eq(getsockname(server, (struct sockaddr *)&a, &size), 0);
	ck_assert_int_eq(listen(server, 1), 0);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&a, size), 0);
	/* The accepted end stays open until this process exits. */
	ck_assert_int_ge(accept4(server, NULL, NULL, SOCK_CLOEXEC), 0);
	while (send(fd, block, sizeof(block), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
		;
	ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l)), 0);
	return fd;
}

/* Sends the descriptor and closes it. */
static void send_away(int to, int fd, int flags)
{
	ck_assert_int_eq(fd_send(to, "x", 1, &fd, 1, flags), 1);
	(void)close(fd);
}

START_TEST(plain_bytes_are_read_here)
{
	char p[16];

	ck_assert_int_eq(receivers_read(rs, pair[0], false, p, sizeof(p)), -EAGAIN);
	ck_assert_int_eq(send(pair[1], "hello", 5, 0), 5);
	ck_assert_int_eq(receivers_read(rs, pair[0], true, p, 3), 3);
	ck_assert_int_eq(receivers_read(rs, pair[0], true, p, sizeof(p)), 2);
	ck_assert_int_eq(shutdown(pair[1], SHUT_WR), 0);
	ck_assert_int_eq(receivers_read(rs, pair[0], true, p, sizeof(p)), 0);
}
END_TEST

START_TEST(bytes_in_front_of_descriptors)
{
	_cleanup_close_ int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	char p[16];

	ck_assert_int_eq(send(pair[1], "abc", 3, 0), 3);
	ck_assert_int_eq(fd_send(pair[1], "def", 3, &null, 1, 0), 3);
	ck_assert_int_eq(receivers_read(rs, pair[0], false, p, sizeof(p)), RECEIVERS_FDS);
	begin(pair[0]);
	run_until(1);
	ck_assert_uint_eq(got.n, 6);
	ck_assert_int_eq(memcmp(bytes, "abcdef", 6), 0);
	ck_assert_int_eq(receivers_read(rs, pair[0], false, p, sizeof(p)), -EAGAIN);
}
END_TEST

START_TEST(sockets_are_kept_in_their_places)
{
	_cleanup_close_ int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int a[2], datagram[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, a), 0);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, datagram), 0);
	const int fds[] = { null, a[0], datagram[0], a[1] };
	ck_assert_int_eq(fd_send(pair[1], "line\n", 5, fds, 4, 0), 5);
	begin(pair[0]);
	run_until(1);
	ck_assert_int_eq(got.error, 0);
	ck_assert_uint_eq(got.n, 5);
	ck_assert_int_eq(memcmp(bytes, "line\n", 5), 0);
	ck_assert_uint_eq(got.n_fds, 4);
	ck_assert_int_eq(got.fds[0], -EBADF);
	ck_assert_int_eq(got.fds[2], -EBADF);
	ck_assert_int_eq(send(got.fds[1], "z", 1, 0), 1);
	char z;
	ck_assert_int_eq(recv(got.fds[3], &z, 1, MSG_DONTWAIT), 1);
	for (int i = 0; i < 2; i++) {
		(void)close(a[i]);
		(void)close(datagram[i]);
	}
}
END_TEST

START_TEST(another_uids_socket_is_not_kept)
{
	const struct receiver_user other = { getuid() + 1, getuid() + 1 };
	struct receipt *rt;
	int a[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, a), 0);
	ck_assert_int_eq(fd_send(pair[1], "x", 1, a, 1, 0), 1);
	ck_assert_int_eq(
		receipt_new(rs, &other, pair[0], sizeof(bytes), on_received, NULL, &rt), 0);
	run_until(1);
	ck_assert_uint_eq(got.n_fds, 1);
	ck_assert_int_eq(got.fds[0], -EBADF);
	(void)close(a[0]);
	(void)close(a[1]);
}
END_TEST

START_TEST(more_than_may_wait)
{
	int fds[LIMIT_FDS_WAITING + 1];

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
		fds[i] = pair[1];
	ck_assert_int_eq(fd_send(pair[1], "x", 1, fds, ARRAY_SIZE(fds), 0), 1);
	begin(pair[0]);
	run_until(1);
	ck_assert_int_eq(got.error, -ETOOMANYREFS);
	ck_assert_uint_eq(got.n_fds, 0);
}
END_TEST

/* The answer comes before the close. The next receipt finds the receiver stuck and fails; the one
 * after that gets a new receiver. */
START_TEST(a_lingering_socket_holds_up_its_sender_alone)
{
	uint64_t begun;

	send_away(pair[1], lingering(), 0);
	begun = now_usec();
	begin(pair[0]);
	run_until(1);
	ck_assert_int_eq(got.fds[0], -EBADF);
	ck_assert_int_eq(send(pair[1], "y", 1, 0), 1);
	begin(pair[0]);
	run_until(2);
	ck_assert_int_eq(got.error, -ETIMEDOUT);
	begin(pair[0]);
	run_until(3);
	ck_assert_int_eq(got.error, 0);
	ck_assert_uint_eq(got.n, 1);
	ck_assert_uint_lt(now_usec() - begun, AT_ONCE_USEC);
}
END_TEST

static void close_at_once(bool shared)
{
	uint64_t begun = now_usec();

	receivers_close(rs, TAKE_FD(pair[0]), shared);
	ck_assert_uint_lt(now_usec() - begun, AT_ONCE_USEC);
}

START_TEST(closing_over_a_queued_descriptor)
{
	send_away(pair[1], lingering(), 0);
	close_at_once(false);
}
END_TEST

/* A peek skips an out-of-band byte, and a read drops it with its control data. */
START_TEST(out_of_band)
{
	char p[16];

	send_away(pair[1], lingering(), MSG_OOB);
	ck_assert_int_eq(send(pair[1], "hello", 5, 0), 5);
	ck_assert_int_eq(receivers_read(rs, pair[0], false, p, sizeof(p)), RECEIVERS_FDS);
	close_at_once(false);
}
END_TEST

/* A holder of a copy of the passed end can take the mark away and read the byte. */
START_TEST(out_of_band_hidden_by_a_copy)
{
	const int off = 0;
	char p[16];
	uint64_t begun;

	send_away(pair[1], lingering(), MSG_OOB);
	ck_assert_int_eq(setsockopt(pair[0], SOL_SOCKET, SO_OOBINLINE, &off, sizeof(off)), 0);
	ck_assert_int_eq(send(pair[1], "hello", 5, 0), 5);
	begun = now_usec();
	ck_assert_int_eq(receivers_read(rs, pair[0], true, p, sizeof(p)), 5);
	ck_assert_uint_lt(now_usec() - begun, AT_ONCE_USEC);
	send_away(pair[1], lingering(), MSG_OOB);
	ck_assert_int_eq(recv(pair[0], p, 1, MSG_OOB | MSG_DONTWAIT), 1);
	close_at_once(true);
}
END_TEST

START_TEST(cancelled_receipts)
{
	_cleanup_close_ int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	struct receipt *first, *second;
	int other[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, other), 0);
	ck_assert_int_eq(fd_send(pair[1], "a", 1, &null, 1, 0), 1);
	ck_assert_int_eq(fd_send(other[1], "b", 1, &null, 1, 0), 1);
	ck_assert_int_eq(receipt_new(rs, &me, pair[0], 16, on_received, NULL, &first), 0);
	ck_assert_int_eq(receipt_new(rs, &me, other[0], 16, on_received, NULL, &second), 0);
	ck_assert_ptr_null(receipt_free(second));
	ck_assert_ptr_null(receipt_free(first));
	begin(other[0]);
	run_until(1);
	ck_assert_int_eq(got.error, 0);
	ck_assert_int_eq(bytes[0], 'b');
	(void)close(other[0]);
	(void)close(other[1]);
}
END_TEST

/* Each uid has its own receiver; idle ones are replaced. */
START_TEST(many_uids)
{
	for (uid_t uid = 100000; uid < 100000 + 2 * LIMIT_RECEIVERS; uid++) {
		const struct receiver_user user = { uid, uid };
		struct receipt *rt;

		ck_assert_int_eq(send(pair[1], "x", 1, 0), 1);
		ck_assert_int_eq(receipt_new(rs, &user, pair[0], 1, on_received, NULL, &rt), 0);
		run_until(uid - 100000 + 1);
		ck_assert_int_eq(got.error, 0);
		ck_assert_uint_eq(got.n, 1);
	}
}
END_TEST

/* An account whose receivers are all busy gets no more; others do, from its idle ones too, and root
 * does. */
START_TEST(one_account_has_few)
{
	struct receipt *rt;
	int n = 0, r = 0;

	/* The loop does not run, so each stays busy. */
	for (uid_t uid = 200000; r == 0 && n <= LIMIT_RECEIVERS; uid++, n++) {
		const struct receiver_user many = { uid, 7 };
		r = receipt_new(rs, &many, pair[0], 1, on_received, NULL, &rt);
	}
	ck_assert_int_eq(r, -EBUSY);
	ck_assert_int_eq(n, LIMIT_RECEIVERS_ACCOUNT + 1);
	for (uid_t account = 8; account < 8 + LIMIT_RECEIVERS; account++) {
		const struct receiver_user other = { 300000 + account, account };
		r = receipt_new(rs, &other, pair[0], 1, on_received, NULL, &rt);
		ck_assert_int_eq(
			r, account < 8 + LIMIT_RECEIVERS - LIMIT_RECEIVERS_ACCOUNT ? 0 : -EBUSY);
	}
	const struct receiver_user root = { 0, 0 };
	ck_assert_int_eq(receipt_new(rs, &root, pair[0], 1, on_received, NULL, &rt), 0);
}
END_TEST

/* Busy receivers count for the account that their uid has now. */
START_TEST(accounts_that_change)
{
	struct receipt *rt;
	int r = 0;

	for (uid_t uid = 200000; r == 0; uid++) {
		const struct receiver_user many = { uid, 7 };
		r = receipt_new(rs, &many, pair[0], 1, on_received, NULL, &rt);
	}
	ck_assert_int_eq(r, -EBUSY);
	receivers_recount(rs, NULL); /* each uid is its own account */
	const struct receiver_user another = { 300000, 7 };
	ck_assert_int_eq(receipt_new(rs, &another, pair[0], 1, on_received, NULL, &rt), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("receiver");
	TCase *t = tcase_create("receiver");
	SRunner *sr;
	int failed;

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, plain_bytes_are_read_here);
	tcase_add_test(t, bytes_in_front_of_descriptors);
	tcase_add_test(t, sockets_are_kept_in_their_places);
	tcase_add_test(t, another_uids_socket_is_not_kept);
	tcase_add_test(t, more_than_may_wait);
	tcase_add_test(t, a_lingering_socket_holds_up_its_sender_alone);
	tcase_add_test(t, closing_over_a_queued_descriptor);
	tcase_add_test(t, out_of_band);
	tcase_add_test(t, out_of_band_hidden_by_a_copy);
	tcase_add_test(t, cancelled_receipts);
	tcase_add_test(t, many_uids);
	tcase_add_test(t, one_account_has_few);
	tcase_add_test(t, accounts_that_change);
	suite_add_tcase(s, t);
	sr = srunner_create(s);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
