/* SPDX-License-Identifier: MIT */
/*
 * The store: reported commits survive a kill; a newer or damaged file is refused with a fix and not
 * changed; a failed call does not affect others of its batch; each table's description matches its
 * schema, and every column is read back unchanged.
 */

#include "daemon/store/migrations.h"
#include "daemon/store/table.h"

#include <check.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char dir[64];
static char path[128];
static sd_event *event;
static bool flag;

static void setup(void)
{
	strcpy(dir, "/tmp/pyro-store-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	(void)snprintf(path, sizeof(path), "%s/pyro.db", dir);
	ck_assert_int_ge(sd_event_new(&event), 0);
	flag = false;
}

static int remove_one(
	const char *p, _unused_ const struct stat *st, _unused_ int f, _unused_ struct FTW *w)
{
	return remove(p);
}

static void teardown(void)
{
	event = sd_event_unref(event);
	(void)nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void on_done(int r, const struct error *err, void *userdata)
{
	if (userdata)
		*(int *)userdata = r;
	ck_assert(r >= 0 || (err && err->set));
	flag = true;
}

static void wait_done(void)
{
	while (!flag)
		ck_assert_int_ge(sd_event_run(event, 5 * USEC_PER_SEC), 0);
	flag = false;
}

static struct vm_row make_row(unsigned n)
{
	struct vm_row row = { .owner_uid = 1000,
		.vcpu_count = 2,
		.mem_mib = 1024,
		.disk_mib = 10240,
		.ttl_seconds = 600,
		.created_usec = n,
		.vmm_pid = 77,
		.vmm_start_time = UINT64_C(1) << 40 };

	(void)snprintf(row.id, sizeof(row.id), "vm-%012x", n);
	strcpy(row.noun, "run");
	strcpy(row.state, "starting");
	strcpy(row.accelerator, "kvm");
	strcpy(row.start_mode, "cold");
	strcpy(row.boot_id, "f2d3");
	row.environment = (char *)"debian:12";
	memset(row.uuid, 0xab, sizeof(row.uuid));
	memset(row.sync, 0xcd, sizeof(row.sync));
	return row;
}

static struct vm_row *load(struct store *s, size_t *n)
{
	struct vm_row *rows = NULL;

	ck_assert_int_eq(store_vm_load(s, &rows, n, NULL), 0);
	return rows;
}

static void free_rows(struct vm_row *rows, size_t n)
{
	for (size_t i = 0; i < n; i++)
		vm_row_done(&rows[i]);
	free(rows);
}

START_TEST(put_load_delete)
{
	struct vm_row row = make_row(5), *rows;
	struct store *s;
	struct stat st;
	size_t n;

	ck_assert_int_eq(store_new(event, path, &s, NULL), 0);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 0777, 0600);
	ck_assert_int_eq(store_vm_put(s, &row, on_done, NULL), 0);
	wait_done();
	row.last_error = (char *)"x";
	ck_assert_int_eq(store_vm_put(s, &row, NULL, NULL), 0);
	s = store_free(s); /* finishes the queue */
	ck_assert_int_eq(store_new(event, path, &s, NULL), 0);
	rows = load(s, &n);
	ck_assert_uint_eq(n, 1);
	ck_assert_str_eq(rows[0].id, row.id);
	ck_assert_str_eq(rows[0].last_error, "x");
	ck_assert_ptr_null(rows[0].env_digest);
	ck_assert_uint_eq(rows[0].vmm_start_time, row.vmm_start_time);
	ck_assert_mem_eq(rows[0].sync, row.sync, sizeof(row.sync));
	free_rows(rows, n);
	ck_assert_int_eq(store_vm_delete(s, row.id, on_done, NULL), 0);
	wait_done();
	rows = load(s, &n);
	ck_assert_uint_eq(n, 0);
	free_rows(rows, n);
	store_free(s);
}
END_TEST

START_TEST(neighbours_of_a_failure_commit)
{
	struct vm_row good = make_row(1), bad = make_row(2), last = make_row(3), *rows;
	int results[3] = { 1, 1, 1 };
	struct store *s;
	size_t n;

	bad.environment = NULL; /* NOT NULL in the table */
	ck_assert_int_eq(store_new(event, path, &s, NULL), 0);
	ck_assert_int_eq(store_vm_put(s, &good, on_done, &results[0]), 0);
	ck_assert_int_eq(store_vm_put(s, &bad, on_done, &results[1]), 0);
	ck_assert_int_eq(store_vm_put(s, &last, on_done, &results[2]), 0);
	while (results[2] == 1)
		wait_done();
	ck_assert_int_eq(results[0], 0);
	ck_assert_int_eq(results[1], -EEXIST);
	ck_assert_int_eq(results[2], 0);
	rows = load(s, &n);
	ck_assert_uint_eq(n, 2);
	free_rows(rows, n);
	store_free(s);
}
END_TEST

static void read_all(char **ret, size_t *n)
{
	ck_assert_int_eq(read_file_at(AT_FDCWD, path, 16 * MIB, ret, n), 0);
}

START_TEST(newer_version_is_left_alone)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	_cleanup_free_ char *before = NULL, *after = NULL;
	size_t n_before, n_after;
	struct store *s;
	sqlite3 *db;

	ck_assert_int_eq(store_new(event, path, &s, NULL), 0);
	store_free(s);
	ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
	ck_assert_int_eq(
		sqlite3_exec(db, "PRAGMA user_version = 999", NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
	read_all(&before, &n_before);
	ck_assert_int_lt(store_new(event, path, &s, &err), 0);
	ck_assert_int_eq(err.code, ERROR_UNSUPPORTED);
	ck_assert_ptr_nonnull(strstr(err.cause, "newer pyro"));
	ck_assert(startswith(err.fix, STORE_ASIDE));
	read_all(&after, &n_after);
	ck_assert_uint_eq(n_before, n_after);
	ck_assert_mem_eq(before, after, n_before);
}
END_TEST

static void damage(off_t at, const void *p, size_t n)
{
	_cleanup_close_ int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	ck_assert_int_eq(pwrite(fd, p, n, at), (ssize_t)n);
}

static void expect_damaged(void)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct store *s;

	ck_assert_int_lt(store_new(event, path, &s, &err), 0);
	ck_assert_int_eq(err.code, ERROR_INTERNAL);
	ck_assert_ptr_nonnull(err.cause);
	ck_assert(startswith(err.fix, STORE_ASIDE));
}

START_TEST(not_a_database)
{
	damage(0, "short", 5);
	expect_damaged();
}
END_TEST

START_TEST(damaged_pages)
{
	struct vm_row row = make_row(1);
	char noise[4096];
	struct store *s;

	ck_assert_int_eq(store_new(event, path, &s, NULL), 0);
	ck_assert_int_eq(store_vm_put(s, &row, NULL, NULL), 0);
	store_free(s);
	memset(noise, 0x5a, sizeof(noise));
	damage(100, noise, sizeof(noise) - 100); /* the schema's page */
	expect_damaged();
}
END_TEST

START_TEST(second_daemon_is_refused)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct vm_row row = make_row(1);
	struct store *s, *other;

	ck_assert_int_eq(store_new(event, path, &s, NULL), 0);
	ck_assert_int_eq(store_vm_put(s, &row, on_done, NULL), 0);
	wait_done();
	ck_assert_int_lt(store_new(event, path, &other, &err), 0);
	ck_assert_ptr_nonnull(strstr(err.message, "in use"));
	store_free(s);
}
END_TEST

static int tell_fd;
static unsigned committed;

static void on_commit(int r, _unused_ const struct error *err, _unused_ void *userdata)
{
	if (r < 0)
		_exit(1);
	committed++;
	if (write(tell_fd, &committed, sizeof(committed)) < 0)
		_exit(1);
	flag = true;
}

static void writer(void)
{
	sd_event *loop;
	struct store *s;

	if (sd_event_new(&loop) < 0 || store_new(loop, path, &s, NULL) < 0)
		_exit(1);
	for (unsigned i = 1;; i++) {
		struct vm_row row = make_row(i);

		flag = false;
		(void)store_vm_put(s, &row, on_commit, NULL);
		while (!flag)
			(void)sd_event_run(loop, UINT64_MAX);
	}
}

/* Kills a writer after it has reported n commits: at least these are stored, and the file is
 * intact. */
static void kill_round(unsigned n)
{
	struct vm_row *rows;
	unsigned seen = 0;
	size_t n_rows;
	struct store *s;
	int fds[2];
	pid_t pid;

	ck_assert_int_eq(pipe(fds), 0);
	pid = fork();
	if (pid == 0) {
		tell_fd = fds[1];
		writer();
	}
	fd_close(fds[1]);
	while (seen < n)
		ck_assert_int_eq(read(fds[0], &seen, sizeof(seen)), sizeof(seen));
	ck_assert_int_eq(kill(pid, SIGKILL), 0);
	while (read(fds[0], &seen, sizeof(seen)) == sizeof(seen))
		;
	ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
	fd_close(fds[0]);
	ck_assert_int_eq(store_new(event, path, &s, NULL), 0);
	rows = load(s, &n_rows);
	ck_assert_uint_ge(n_rows, seen);
	free_rows(rows, n_rows);
	store_free(s);
}

START_TEST(survives_kill)
{
	for (unsigned i = 1; i <= 5; i++)
		kill_round(i * 7);
}
END_TEST

START_TEST(ping)
{
	struct store *s;

	ck_assert_int_eq(store_new(event, path, &s, NULL), 0);
	ck_assert_int_eq(store_ping(s, on_done, NULL), 0);
	wait_done();
	store_free(s);
}
END_TEST

static const struct table *const tables[] = { &vm_table, &exec_table, &workspace_table };
enum { N_TABLES = ARRAY_SIZE(tables) };

static void *member(void *row, const struct column *c)
{
	return (char *)row + c->offset;
}

/* Fills each member with its largest or smallest value; text and bytes differ by column. */
static void fill(const struct table *t, void *row, bool least)
{
	for (size_t i = 0; i < t->n_columns; i++) {
		const struct column *c = &t->columns[i];
		char *p = member(row, c);

		switch (c->type) {
		case COLUMN_STRING:
			if (!least || !c->nullable)
				*(char **)p = str_printf("%s of %s, \303\244", c->name, t->name);
			break;
		case COLUMN_CHARS:
			memset(p, 'a' + (int)i, c->size - 1); /* i = 0, the key: always the same */
			p[least && i > 0 && !streq(c->name, "vm_id") ? 0 : c->size - 1] = '\0';
			break;
		case COLUMN_BYTES: memset(p, least ? 0 : 0x80 + (int)i, c->size); break;
		case COLUMN_BOOL: *(bool *)p = !least; break;
		case COLUMN_INT32: *(int32_t *)p = least ? INT32_MIN : INT32_MAX; break;
		case COLUMN_UINT32: *(uint32_t *)p = least ? 0 : UINT32_MAX; break;
		case COLUMN_INT64: *(int64_t *)p = least ? INT64_MIN : INT64_MAX; break;
		case COLUMN_UINT64: *(uint64_t *)p = least ? 0 : UINT64_MAX; break;
		default: ck_abort_msg("a type without a value");
		}
	}
}

static void expect_same(const struct table *t, void *a, void *b)
{
	for (size_t i = 0; i < t->n_columns; i++) {
		const struct column *c = &t->columns[i];
		const char *p = member(a, c), *q = member(b, c);

		if (c->type == COLUMN_STRING)
			ck_assert_pstr_eq(*(char *const *)p, *(char *const *)q);
		else if (c->type == COLUMN_CHARS)
			ck_assert_str_eq(p, q);
		else
			ck_assert_msg(memcmp(p, q, c->size) == 0, "%s.%s", t->name, c->name);
	}
}

START_TEST(every_column_comes_back)
{
	const struct table *t = tables[_i];
	struct store *s;

	ck_assert_int_eq(store_new(event, path, &s, NULL), 0);
	for (int round = 0; round < 3;
		round++) { /* inserts, updates with the smallest values, and updates again */
		_cleanup_free_ char *row = calloc(1, t->row_size);
		void *rows;
		size_t n;
		int result = 1;

		fill(t, row, round == 1);
		ck_assert_int_eq(table_put(s, t, row, on_done, &result), 0);
		wait_done();
		ck_assert_int_eq(result, 0);
		ck_assert_int_eq(table_load(s, t, &rows, &n, NULL), 0);
		ck_assert_uint_eq(n, 1);
		expect_same(t, row, rows);
		table_row_done(t, rows);
		table_row_done(t, row);
		free(rows);
	}
	store_free(s);
}
END_TEST

static void run_sql(const char *sql)
{
	sqlite3 *db;

	ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
	ck_assert_msg(sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK, "%s: %s", sql,
		sqlite3_errmsg(db));
	sqlite3_close(db);
}

static const struct column *find_column(const struct table *t, const char *name)
{
	for (size_t i = 0; i < t->n_columns; i++)
		if (streq(t->columns[i].name, name))
			return &t->columns[i];
	ck_abort_msg("the schema has %s.%s, its description does not", t->name, name);
}

/* A row of PRAGMA table_info: cid, name, type, notnull, dflt_value, pk. */
static int check_column(void *userdata, _unused_ int n, char **values, _unused_ char **names)
{
	const struct table *t = userdata;
	const struct column *c = find_column(t, values[1]);
	const char *type = c->type == COLUMN_BYTES                               ? "BLOB"
			   : c->type == COLUMN_STRING || c->type == COLUMN_CHARS ? "TEXT"
										 : "INTEGER";

	ck_assert_str_eq(values[2], type);
	ck_assert_msg(
		streq(values[3], c->nullable ? "0" : "1"), "NOT NULL of %s.%s", t->name, c->name);
	ck_assert_msg(streq(values[5], "0") == (c != t->columns), "the key of %s", t->name);
	return 0;
}

START_TEST(schema_and_description_agree)
{
	const struct table *t = tables[_i];
	_cleanup_free_ char *sql = str_printf("PRAGMA table_info(%s)", t->name);
	struct store *s;
	sqlite3 *db;

	ck_assert_int_eq(store_new(event, path, &s, NULL), 0);
	store_free(s);
	ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
	ck_assert_int_eq(
		sqlite3_exec(db, sql, check_column, (void *)(uintptr_t)t, NULL), SQLITE_OK);
	sqlite3_close(db);
}
END_TEST

/* Values that do not fit their member, from a damaged or modified file. */
static const char *const beyond[] = {
	"UPDATE vm SET vcpu_count = 4294967296",
	"UPDATE vm SET vcpu_count = -1",
	"UPDATE vm SET owner_uid = -1",
	"UPDATE vm SET owner_uid = 4294967296",
	"UPDATE vm SET vmm_pid = 2147483648",
	"UPDATE vm SET state = 'sixteen bytes ..'",
	"UPDATE vm SET boot_id = printf('%040d', 0)",
};

START_TEST(values_are_never_cut)
{
	_cleanup_error_ struct error err = ERROR_INIT;
	struct vm_row row = make_row(1), *rows = NULL;
	struct store *s;
	size_t n;

	ck_assert_int_eq(store_new(event, path, &s, NULL), 0);
	ck_assert_int_eq(store_vm_put(s, &row, NULL, NULL), 0);
	store_free(s);
	run_sql(beyond[_i]);
	ck_assert_int_eq(store_new(event, path, &s, NULL), 0);
	ck_assert_int_eq(store_vm_load(s, &rows, &n, &err), -EUCLEAN);
	ck_assert_str_eq(err.message, "cannot read the machines in the store");
	ck_assert_ptr_null(rows);
	store_free(s);
}
END_TEST

START_TEST(commands_go_with_their_machine)
{
	struct vm_row row = make_row(1);
	struct exec_row command = { .id = "ex-000000000001", .command = (char *)"true" }, *rows;
	struct store *s;
	size_t n;

	strcpy(command.vm_id, row.id);
	ck_assert_int_eq(store_new(event, path, &s, NULL), 0);
	ck_assert_int_eq(store_vm_put(s, &row, NULL, NULL), 0);
	ck_assert_int_eq(store_exec_put(s, &command, NULL, NULL), 0);
	row.vcpu_count = 3; /* an update keeps its commands */
	ck_assert_int_eq(store_vm_put(s, &row, on_done, NULL), 0);
	wait_done();
	ck_assert_int_eq(store_exec_load(s, &rows, &n, NULL), 0);
	ck_assert_uint_eq(n, 1);
	ck_assert_str_eq(rows[0].vm_id, row.id);
	exec_row_done(rows);
	free(rows);
	ck_assert_int_eq(store_vm_delete(s, row.id, on_done, NULL), 0);
	wait_done();
	ck_assert_int_eq(store_exec_load(s, &rows, &n, NULL), 0);
	ck_assert_uint_eq(n, 0);
	free(rows);
	store_free(s);
}
END_TEST

static struct workspace_row make_workspace(unsigned n, const char *name)
{
	struct workspace_row row = { .owner_uid = 1000,
		.name = (char *)(uintptr_t)name,
		.labels = (char *)(uintptr_t) "{}",
		.commands = 3,
		.shared = true };

	(void)snprintf(row.id, sizeof(row.id), "ws-%012x", n);
	return row;
}

static size_t count_workspaces(struct store *s, const char *expected_id)
{
	struct workspace_row *rows = NULL;
	size_t n;

	ck_assert_int_eq(store_workspace_load(s, &rows, &n, NULL), 0);
	for (size_t i = 0; i < n; i++) {
		ck_assert_str_eq(rows[i].id, expected_id);
		workspace_row_done(&rows[i]);
	}
	free(rows);
	return n;
}

START_TEST(a_workspace_goes_with_its_machine)
{
	struct workspace_row row = make_workspace(1, "a"), other = make_workspace(2, NULL);
	struct vm_row machine = make_row(1);
	struct store *s;

	strcpy(machine.id, row.id);
	ck_assert_int_eq(store_new(event, path, &s, NULL), 0);
	ck_assert_int_eq(store_workspace_put(s, &row, NULL, NULL), 0);
	ck_assert_int_eq(store_workspace_put(s, &other, NULL, NULL), 0);
	ck_assert_int_eq(store_vm_put(s, &machine, NULL, NULL), 0);
	ck_assert_int_eq(store_vm_delete(s, machine.id, on_done, NULL), 0);
	wait_done();
	ck_assert_uint_eq(count_workspaces(s, other.id), 1);
	ck_assert_int_eq(store_workspace_delete(s, other.id, on_done, NULL), 0);
	wait_done();
	ck_assert_uint_eq(count_workspaces(s, ""), 0);
	store_free(s);
}
END_TEST

START_TEST(names_are_unique_for_each_owner)
{
	struct workspace_row a = make_workspace(1, "a"), other = make_workspace(2, "a"),
			     nameless[2] = { make_workspace(3, NULL), make_workspace(4, NULL) };
	struct vm_row machine = make_row(1);
	int result = 1;
	struct store *s;

	ck_assert_int_eq(store_new(event, path, &s, NULL), 0);
	strcpy(machine.id, a.id);
	strcpy(machine.noun, "workspace");
	ck_assert_int_eq(store_workspace_put(s, &a, NULL, NULL), 0);
	ck_assert_int_eq(store_vm_put(s, &machine, NULL, NULL), 0);
	ck_assert_int_eq(store_workspace_put(s, &nameless[0], NULL, NULL), 0);
	ck_assert_int_eq(store_workspace_put(s, &nameless[1], on_done, &result), 0);
	wait_done();
	ck_assert_int_eq(result, 0);
	ck_assert_int_eq(store_workspace_put(s, &other, on_done, &result), 0);
	wait_done();
	ck_assert_int_eq(result, -EEXIST);
	other.owner_uid = 1001;
	ck_assert_int_eq(store_workspace_put(s, &other, on_done, &result), 0);
	wait_done();
	ck_assert_int_eq(result, 0);
	store_free(s);
}
END_TEST

/* The deletion of its row failed after its creation had failed. */
START_TEST(a_row_without_a_machine_keeps_no_name)
{
	struct workspace_row a = make_workspace(1, "a"), next = make_workspace(2, "a"),
			     nameless[2] = { make_workspace(3, NULL), make_workspace(4, NULL) };
	struct workspace_row *rows = NULL;
	int result = 1;
	struct store *s;
	size_t n;

	ck_assert_int_eq(store_new(event, path, &s, NULL), 0);
	ck_assert_int_eq(store_workspace_put(s, &a, NULL, NULL), 0);
	ck_assert_int_eq(store_workspace_put(s, &nameless[0], NULL, NULL), 0);
	ck_assert_int_eq(store_workspace_put(s, &nameless[1], NULL, NULL), 0);
	ck_assert_int_eq(store_workspace_put(s, &next, on_done, &result), 0);
	wait_done();
	ck_assert_int_eq(result, 0);
	ck_assert_int_eq(store_workspace_put(s, &next, on_done, &result), 0); /* an update */
	wait_done();
	ck_assert_int_eq(result, 0);
	store_free(s);
	ck_assert_int_eq(store_new(event, path, &s, NULL), 0);
	ck_assert_int_eq(store_workspace_load(s, &rows, &n, NULL), 0);
	ck_assert_uint_eq(n, 3);
	for (size_t i = 0; i < n; i++) {
		ck_assert_str_ne(rows[i].id, a.id);
		workspace_row_done(&rows[i]);
	}
	free(rows);
	store_free(s);
}
END_TEST

/* After a death between the two rows' commits, or with rows that somebody changed. */
START_TEST(workspaces_without_their_other_row)
{
	struct workspace_row row = make_workspace(1, "a"), *rows;
	struct vm_row machine = make_row(2);
	struct store *s;
	size_t n;

	strcpy(machine.id, "ws-000000000002");
	strcpy(machine.noun, "workspace");
	ck_assert_int_eq(store_new(event, path, &s, NULL), 0);
	ck_assert_int_eq(store_workspace_put(s, &row, NULL, NULL), 0);
	ck_assert_int_eq(store_vm_put(s, &machine, NULL, NULL), 0);
	machine = make_row(3); /* of another noun */
	ck_assert_int_eq(store_vm_put(s, &machine, NULL, NULL), 0);
	store_free(s);
	ck_assert_int_eq(store_new(event, path, &s, NULL), 0);
	ck_assert_int_eq(store_workspace_repair(s, NULL), 1);
	ck_assert_int_eq(store_workspace_repair(s, NULL), 0);
	ck_assert_int_eq(store_workspace_load(s, &rows, &n, NULL), 0);
	ck_assert_uint_eq(n, 1);
	ck_assert_str_eq(rows[0].id, "ws-000000000002");
	ck_assert_uint_eq(rows[0].owner_uid, 1000);
	ck_assert_ptr_null(rows[0].name);
	ck_assert_str_eq(rows[0].labels, "{}");
	workspace_row_done(rows);
	free(rows);
	store_free(s);
}
END_TEST

#define MACHINE_OF_1 \
	"INSERT INTO vm (id, owner_uid, environment, vcpu_count, mem_mib, disk_mib, ttl_seconds, " \
	"created_usec, expires_usec, %s, state, accelerator, start_mode, uuid, sync, vmm_pid, " \
	"vmm_start_time, boot_id) VALUES ('vm-00000000000%c', 1000, 'debian:12', 2, 512, 1024, 600, " \
	"%d, 8, %s, 'started', 'kvm', 'cold', zeroblob(16), zeroblob(32), 77, 88, 'b')"

/* The machine of a vm.create, and that of a vm.run. Version 6 has `noun` in place of one_shot. */
static void add_machines_of(int version)
{
	bool noun = version >= 6;
	_cleanup_free_ char *kept =
		str_printf(MACHINE_OF_1, noun ? "noun" : "one_shot", 'a', 7, noun ? "'vm'" : "0");
	_cleanup_free_ char *run =
		str_printf(MACHINE_OF_1, noun ? "noun" : "one_shot", 'b', 8, noun ? "'run'" : "1");

	run_sql(kept);
	run_sql(run);
}

/* Opens a file of each earlier version, with machines that were made by that version. */
START_TEST(older_versions_come_along)
{
	struct vm_row *rows;
	struct store *s;
	sqlite3 *db;
	size_t n;

	ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
	for (int version = 1; version <= _i; version++)
		ck_assert_int_eq(sqlite3_exec(db, store_migrations[version - 1], NULL, NULL, NULL),
			SQLITE_OK);
	sqlite3_close(db);
	add_machines_of(_i);
	_cleanup_free_ char *version = str_printf("PRAGMA user_version = %d", _i);
	run_sql(version);
	ck_assert_int_eq(store_new(event, path, &s, NULL), 0);
	rows = load(s, &n);
	ck_assert_uint_eq(n, 2);
	ck_assert_str_eq(rows[0].id, "vm-00000000000a");
	ck_assert_str_eq(rows[0].noun, "vm");
	ck_assert_str_eq(rows[0].state, "started");
	ck_assert_uint_eq(rows[0].vmm_start_time, 88);
	ck_assert_str_eq(rows[0].stop_reason, "");
	ck_assert_str_eq(rows[1].id, "vm-00000000000b");
	ck_assert_str_eq(rows[1].noun, "run");
	ck_assert_uint_eq(count_workspaces(s, ""), 0);
	free_rows(rows, n);
	store_free(s);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("store");
	TCase *tc = tcase_create("store");
	SRunner *sr;
	int failed;

	tcase_set_timeout(tc, 60);
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, put_load_delete);
	tcase_add_test(tc, neighbours_of_a_failure_commit);
	tcase_add_test(tc, newer_version_is_left_alone);
	tcase_add_test(tc, not_a_database);
	tcase_add_test(tc, damaged_pages);
	tcase_add_test(tc, second_daemon_is_refused);
	tcase_add_test(tc, survives_kill);
	tcase_add_test(tc, ping);
	tcase_add_loop_test(tc, every_column_comes_back, 0, N_TABLES);
	tcase_add_loop_test(tc, schema_and_description_agree, 0, N_TABLES);
	tcase_add_loop_test(tc, values_are_never_cut, 0, ARRAY_SIZE(beyond));
	tcase_add_test(tc, commands_go_with_their_machine);
	tcase_add_test(tc, a_workspace_goes_with_its_machine);
	tcase_add_test(tc, names_are_unique_for_each_owner);
	tcase_add_test(tc, a_row_without_a_machine_keeps_no_name);
	tcase_add_test(tc, workspaces_without_their_other_row);
	tcase_add_loop_test(tc, older_versions_come_along, 1, store_n_migrations);
	suite_add_tcase(suite, tc);
	sr = srunner_create(suite);
	srunner_set_tap(sr, "-");
	srunner_run_all(sr, CK_SILENT);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
