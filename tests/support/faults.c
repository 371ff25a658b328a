// What a process does with files below one folder, counted, and disturbed at the n-th time: built and loaded with
// LD_PRELOAD by support/faults.py, where the plans are described. Only calls that come from outside libc are seen; that is
// all of Python's, and of the libraries those that do not go through FILE.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind { READ = 1, WRITE = 2, NAME = 4, SYNC = 8, LOCK = 16, OPEN = 32, MAP = 64 };
enum action { NOTHING, KILL, ERROR, SHORT, HALF_THEN_KILL, DELAY, SIGNAL };

static char root[PATH_MAX];
static size_t root_length;
static int action = NOTHING, value, log_handle = -1;
static unsigned kinds;
static long at, times = 1;
static atomic_long count, clock_calls;
static long clock_at = -1, clock_by;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }
#define REAL(name)                                   \
    static __typeof__(&name) next_##name;            \
    if (!next_##name) next_##name = real(#name)

// Forget what was counted, and do `what` to the operations `from`, `from` + 1, ... of the kinds in `which`.
void zsl_fault_arm(const char *folder, int what, int with, unsigned which, long from, long repeat, int log) {
    snprintf(root, sizeof root, "%s", folder);
    root_length = strlen(root);
    value = with, kinds = which, at = from, times = repeat, log_handle = log;
    atomic_store(&count, 0);
    action = what;
}

// Put the time of day `by` seconds off from its `from`-th reading on.
void zsl_fault_clock(long from, long by) {
    atomic_store(&clock_calls, 0);
    clock_by = by;
    clock_at = from;
}

long zsl_fault_count(void) { return atomic_load(&count); }

static int below(const char *path) {
    return root_length && !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

static void path_of_handle(int handle, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
}

static void whole_path(int folder, const char *name, char *path) {
    if (name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
        return;
    }
    char start[PATH_MAX];
    if (folder == AT_FDCWD) {
        if (!getcwd(start, sizeof start)) start[0] = 0;
    } else {
        path_of_handle(folder, start);
    }
    if (snprintf(path, PATH_MAX, "%s/%s", start, name) >= PATH_MAX) path[0] = 0;
}

static void note(const char *call, const char *first, const char *second, long offset, const void *data, size_t length) {
    char head[2 * PATH_MAX + 128];
    int size = snprintf(head, sizeof head, "%s\t%s\t%s\t%ld\t%zu\n", call, first, second, offset, data ? length : 0);
    struct iovec parts[] = {{head, (size_t)size}, {(void *)data, data ? length : 0}};
    REAL(writev);
    next_writev(log_handle, parts, 2);
}

// Count one operation; the action that is due, which is NOTHING or one that the caller carries out.
static int meet(unsigned kind, const char *call, const char *first, const char *second) {
    if (!(kind & kinds) || !(below(first) || below(second))) return NOTHING;
    long number = atomic_fetch_add(&count, 1);
    if (log_handle >= 0 && strcmp(call, "write")) note(call, first, second, 0, NULL, 0);
    if (action == NOTHING || number < at || number >= at + times) return NOTHING;
    if (action == KILL) kill(getpid(), SIGKILL);
    if (action == SIGNAL) kill(getpid(), value);
    if (action == ERROR) errno = value;
    if (action == DELAY) {
        struct timespec pause = {value / 1000, (value % 1000) * 1000000L};
        nanosleep(&pause, NULL);
    }
    return action;
}

static int meet_handle(unsigned kind, const char *call, int handle) {
    if (!root_length || !(kind & kinds) || handle == log_handle) return NOTHING;
    int kept = errno;
    char path[PATH_MAX];
    path_of_handle(handle, path);
    errno = kept;
    return meet(kind, call, path, "");
}

static int meet_name(unsigned kind, const char *call, int folder, const char *name, int other, const char *second) {
    if (!root_length || !(kind & kinds) || !name) return NOTHING;
    int kept = errno;
    char first[PATH_MAX], last[PATH_MAX] = "";
    whole_path(folder, name, first);
    if (second) whole_path(other, second, last);
    errno = kept;
    return meet(kind, call, first, last);
}

static int meet_open(int folder, const char *name, int flags) {
    int writes = flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC);
    const char *call = flags & O_TRUNC ? "open-empty" : flags & O_CREAT ? "open-make" : writes ? "open-write" : "open";
    return meet_name(OPEN | (writes ? WRITE : READ), call, folder, name, 0, NULL);
}

#define OPENER(name, prelude, forward)                        \
    {                                                         \
        mode_t mode = 0;                                      \
        if (flags & (O_CREAT | __O_TMPFILE)) {                \
            va_list more;                                     \
            va_start(more, flags);                            \
            mode = va_arg(more, mode_t);                      \
            va_end(more);                                     \
        }                                                     \
        REAL(name);                                           \
        if (prelude == ERROR) return -1;                      \
        return forward;                                       \
    }
int open(const char *path, int flags, ...) OPENER(open, meet_open(AT_FDCWD, path, flags), next_open(path, flags, mode))
int open64(const char *path, int flags, ...)
    OPENER(open64, meet_open(AT_FDCWD, path, flags), next_open64(path, flags, mode))
int openat(int folder, const char *path, int flags, ...)
    OPENER(openat, meet_open(folder, path, flags), next_openat(folder, path, flags, mode))
int openat64(int folder, const char *path, int flags, ...)
    OPENER(openat64, meet_open(folder, path, flags), next_openat64(folder, path, flags, mode))

static size_t less(size_t size) { return size > 1 ? (size + 1) / 2 : size; }

ssize_t read(int handle, void *data, size_t size) {
    REAL(read);
    int due = meet_handle(READ, "read", handle);
    return due == ERROR ? -1 : next_read(handle, data, due == SHORT ? less(size) : size);
}
#define READER(name, type)                                                                  \
    ssize_t name(int handle, void *data, size_t size, type offset) {                        \
        REAL(name);                                                                         \
        int due = meet_handle(READ, "read", handle);                                        \
        return due == ERROR ? -1 : next_##name(handle, data, due == SHORT ? less(size) : size, offset); \
    }
READER(pread, off_t)
READER(pread64, off64_t)

static ssize_t written(int handle, const void *data, ssize_t size, long offset) {
    if (log_handle < 0 || size <= 0 || !root_length || handle == log_handle) return size;
    char path[PATH_MAX];
    path_of_handle(handle, path);
    if (below(path)) note("write", path, "", offset, data, (size_t)size);
    return size;
}

ssize_t write(int handle, const void *data, size_t size) {
    REAL(write);
    int due = meet_handle(WRITE, "write", handle);
    if (due == ERROR) return -1;
    long offset = log_handle >= 0 ? lseek(handle, 0, SEEK_CUR) : 0;
    if (log_handle >= 0 && fcntl(handle, F_GETFL) & O_APPEND) offset = lseek(handle, 0, SEEK_END);
    ssize_t done = next_write(handle, data, due == SHORT || due == HALF_THEN_KILL ? less(size) : size);
    if (due == HALF_THEN_KILL) kill(getpid(), SIGKILL);
    return written(handle, data, done, offset);
}
#define WRITER(name, type)                                                                     \
    ssize_t name(int handle, const void *data, size_t size, type offset) {                     \
        REAL(name);                                                                            \
        int due = meet_handle(WRITE, "write", handle);                                         \
        if (due == ERROR) return -1;                                                           \
        ssize_t done = next_##name(handle, data, due == SHORT || due == HALF_THEN_KILL ? less(size) : size, offset); \
        if (due == HALF_THEN_KILL) kill(getpid(), SIGKILL);                                    \
        return written(handle, data, done, offset);                                            \
    }
WRITER(pwrite, off_t)
WRITER(pwrite64, off64_t)

ssize_t writev(int handle, const struct iovec *parts, int number) {
    REAL(writev);
    return meet_handle(WRITE, "writev", handle) == ERROR ? -1 : next_writev(handle, parts, number);
}

#define COPIER(name, type)                                                              \
    ssize_t name(int to, int from, type *offset, size_t size) {                         \
        REAL(name);                                                                     \
        int due = meet_handle(WRITE, "copy", to);                                       \
        if (due == NOTHING) due = meet_handle(READ, "copy-from", from);                 \
        if (due == ERROR) return -1;                                                    \
        ssize_t done = next_##name(to, from, offset, due == SHORT || due == HALF_THEN_KILL ? less(size) : size); \
        if (due == HALF_THEN_KILL) kill(getpid(), SIGKILL);                             \
        return done;                                                                    \
    }
COPIER(sendfile, off_t)
COPIER(sendfile64, off64_t)

#define LENGTH(name, type)                                                        \
    int name(int handle, type length) {                                           \
        REAL(name);                                                               \
        return meet_handle(WRITE, "truncate", handle) == ERROR ? -1 : next_##name(handle, length); \
    }
LENGTH(ftruncate, off_t)
LENGTH(ftruncate64, off64_t)

#define RESERVE(name, type)                                                          \
    int name(int handle, type offset, type length) {                                 \
        REAL(name);                                                                  \
        return meet_handle(WRITE, "allocate", handle) == ERROR ? value : next_##name(handle, offset, length); \
    }
RESERVE(posix_fallocate, off_t)
RESERVE(posix_fallocate64, off64_t)

#define FLUSH(name)                                                                     \
    int name(int handle) {                                                              \
        REAL(name);                                                                     \
        return meet_handle(SYNC, "sync", handle) == ERROR ? -1 : next_##name(handle);   \
    }
FLUSH(fsync)
FLUSH(fdatasync)

int flock(int handle, int operation) {
    REAL(flock);
    return meet_handle(LOCK, "flock", handle) == ERROR ? -1 : next_flock(handle, operation);
}

#define MAPPER(name, type)                                                                          \
    void *name(void *where, size_t size, int protection, int flags, int handle, type offset) {      \
        REAL(name);                                                                                 \
        if (handle >= 0 && meet_handle(MAP, "map", handle) == ERROR) return MAP_FAILED;             \
        return next_##name(where, size, protection, flags, handle, offset);                         \
    }
MAPPER(mmap, off_t)
MAPPER(mmap64, off64_t)

#define NAMED(call, name, folder, path, other, second, forward)                                   \
    {                                                                                             \
        REAL(name);                                                                               \
        return meet_name(NAME, call, folder, path, other, second) == ERROR ? -1 : forward;        \
    }
int rename(const char *from, const char *to)
    NAMED("rename", rename, AT_FDCWD, from, AT_FDCWD, to, next_rename(from, to))
int renameat(int one, const char *from, int two, const char *to)
    NAMED("rename", renameat, one, from, two, to, next_renameat(one, from, two, to))
int renameat2(int one, const char *from, int two, const char *to, unsigned flags)
    NAMED(flags & RENAME_EXCHANGE ? "exchange" : "rename", renameat2, one, from, two, to,
          next_renameat2(one, from, two, to, flags))
int unlink(const char *path) NAMED("unlink", unlink, AT_FDCWD, path, 0, NULL, next_unlink(path))
int unlinkat(int folder, const char *path, int flags)
    NAMED(flags & AT_REMOVEDIR ? "rmdir" : "unlink", unlinkat, folder, path, 0, NULL, next_unlinkat(folder, path, flags))
int rmdir(const char *path) NAMED("rmdir", rmdir, AT_FDCWD, path, 0, NULL, next_rmdir(path))
int mkdir(const char *path, mode_t mode) NAMED("mkdir", mkdir, AT_FDCWD, path, 0, NULL, next_mkdir(path, mode))
int mkdirat(int folder, const char *path, mode_t mode)
    NAMED("mkdir", mkdirat, folder, path, 0, NULL, next_mkdirat(folder, path, mode))
int link(const char *from, const char *to) NAMED("link", link, AT_FDCWD, from, AT_FDCWD, to, next_link(from, to))
int symlink(const char *from, const char *to) NAMED("symlink", symlink, AT_FDCWD, to, 0, NULL, next_symlink(from, to))

static atomic_long threads;
static long threads_at = -1;

// Refuse to start threads from the `from`-th on, as the limit on processes does for users who are not root.
void zsl_fault_threads(long from) {
    atomic_store(&threads, 0);
    threads_at = from;
}

int pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*work)(void *), void *with) {
    REAL(pthread_create);
    if (threads_at >= 0 && atomic_fetch_add(&threads, 1) >= threads_at) return EAGAIN;
    return next_pthread_create(thread, how, work, with);
}

static long off(void) {
    return clock_at >= 0 && atomic_fetch_add(&clock_calls, 1) >= clock_at ? clock_by : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    REAL(clock_gettime);
    int code = next_clock_gettime(clock, now);
    if (!code && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += off();
    return code;
}

time_t time(time_t *where) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where) *where = now.tv_sec;
    return now.tv_sec;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    REAL(gettimeofday);
    int code = next_gettimeofday(now, zone);
    if (!code) now->tv_sec += off();
    return code;
}
