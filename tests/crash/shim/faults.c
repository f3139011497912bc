/* Preloaded into every process of an agent: counts, records and breaks what it does to its disk, and bends its clock.
 *
 * 1. Each libc call that changes a file, or makes a change durable, below FAULT_ROOT is one *point*: open with O_CREAT or O_TRUNC,
 *    write, pwrite, writev, rename, unlink, rmdir, mkdir, symlink, ftruncate, fallocate, fsync, fdatasync. Python and SQLite know no
 *    other way to the disk than libc, so no point is missed; `test_faults.py` compares with the kernel's own count of writes.
 * 2. Points are numbered over all processes by one counter in a shared file, FAULT_STATE, which the test maps as well.
 * 3. What is below `run/` (sockets, status) and `*.log` is true only while the agent runs and does not count.
 * 4. FAULT_LOG, if set, gets each point with its bytes, in order: what the crash-state enumerator works from.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { COUNT = 0, KILL = 1, TEAR = 2, FAIL = 3 };
struct state {
    _Atomic uint64_t points;   /* how many so far */
    _Atomic uint64_t from, to; /* points in [from, to] are broken; to = 0: none */
    _Atomic uint64_t mode;     /* one of the above */
    _Atomic uint64_t error;    /* errno of FAIL */
    _Atomic uint64_t fired;    /* how many were broken */
    _Atomic int64_t clock_s;   /* added to the wall clock */
    _Atomic uint64_t writes;   /* successful write calls of any descriptor, for the test of the shim */
};
static struct state *shared;
static char root[PATH_MAX];
static int log_fd = -1;

__attribute__((constructor)) static void begin(void) {
    const char *state = getenv("FAULT_STATE"), *under = getenv("FAULT_ROOT"), *log = getenv("FAULT_LOG");
    if (!state || !under || strlen(under) >= sizeof root) return;
    strcpy(root, under);
    int fd = syscall(SYS_openat, AT_FDCWD, state, O_RDWR | O_CLOEXEC, 0);
    if (fd < 0) return;
    void *at = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (at != MAP_FAILED) shared = at;
    if (log && *log) {
        int raw = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        log_fd = raw < 0 ? -1 : fcntl(raw, F_DUPFD_CLOEXEC, 700); /* out of the way of descriptors with fixed numbers */
        if (raw >= 0) syscall(SYS_close, raw);
    }
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int below(const char *path) {
    size_t n = strlen(root);
    if (!shared || strncmp(path, root, n)) return 0;
    if (!path[n]) return 1;
    if (path[n] != '/') return 0;
    const char *rest = path + n + 1, *dot = strrchr(rest, '.');
    return strncmp(rest, "run/", 4) && !(dot && !strcmp(dot, ".log"));
}

static const char *of_fd(int fd, char *into) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, into, PATH_MAX - 1);
    into[n < 0 ? 0 : n] = 0;
    return into;
}

static const char *of_path(int dir, const char *path, char *into) {
    if (path[0] == '/') { snprintf(into, PATH_MAX, "%s", path); return into; }
    char base[PATH_MAX];
    if (dir == AT_FDCWD) { if (!getcwd(base, sizeof base)) base[0] = 0; }
    else of_fd(dir, base);
    if (strlen(base) + strlen(path) + 2 > PATH_MAX) { into[0] = 0; return into; }
    strcpy(into, base); strcat(into, "/"); strcat(into, path);
    return into;
}

/* Returns 0 to go on, TEAR for a write that shall end in its middle, else -1 with errno set. Does not return from KILL.
   takes: the call may need room on the disk; only such a one fails for want of it. */
static int point(int takes) {
    uint64_t n = atomic_fetch_add(&shared->points, 1) + 1;
    if (n < atomic_load(&shared->from) || n > atomic_load(&shared->to)) return 0;
    if (atomic_load(&shared->mode) == FAIL && atomic_load(&shared->error) == ENOSPC && !takes) return 0;
    atomic_fetch_add(&shared->fired, 1);
    switch (atomic_load(&shared->mode)) {
    case KILL: kill(0, SIGKILL); for (;;) pause();
    case TEAR: return TEAR;
    case FAIL: errno = (int)atomic_load(&shared->error); return -1;
    default: return 0;
    }
}

static void end(void) { kill(0, SIGKILL); for (;;) pause(); }

/* op, lengths, offset, then both paths and the bytes, in one append */
static void note(char op, const char *path, const char *other, int64_t offset, const void *data, uint32_t size) {
    if (log_fd < 0) return;
    struct { char op; char pad[3]; uint32_t path, other, size; int64_t offset; } head = {op, {0}, strlen(path), strlen(other), size, offset};
    struct iovec parts[4] = {{&head, sizeof head}, {(void *)path, head.path}, {(void *)other, head.other}, {(void *)data, size}};
    syscall(SYS_writev, log_fd, parts, 4);
}

#define GATE(takes, failed) { int g = point(takes); if (g == TEAR) end(); if (g) return failed; }

static int opened(int dir, const char *path, int flags, mode_t mode) {
    char at[PATH_MAX];
    int counts = shared && (flags & (O_CREAT | O_TRUNC)) && (flags & O_TMPFILE) != O_TMPFILE && below(of_path(dir, path, at));
    if (counts) GATE(syscall(SYS_faccessat, AT_FDCWD, at, F_OK) != 0, -1);
    int fd = syscall(SYS_openat, dir, path, flags, mode);
    if (counts && fd >= 0) note(flags & O_TRUNC ? 't' : 'c', at, "", 0, "", 0);
    return fd;
}
#define MODE(last) mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list a; va_start(a, last); mode = va_arg(a, int); va_end(a); }
int open(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE(flags) return opened(dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE(flags) return opened(dir, path, flags, mode); }
int creat(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

static ssize_t written(int fd, const void *data, size_t size, int64_t offset) {
    char at[PATH_MAX];
    int torn = 0, counts = shared && below(of_fd(fd, at));
    if (counts) {
        int g = point(1);
        if (g == TEAR) { torn = 1; size /= 2; }
        else if (g) return -1;
    }
    int64_t where = offset;
    if (counts && offset < 0) where = fcntl(fd, F_GETFL) & O_APPEND ? lseek(fd, 0, SEEK_END) : lseek(fd, 0, SEEK_CUR);
    ssize_t n = offset < 0 ? syscall(SYS_write, fd, data, size) : syscall(SYS_pwrite64, fd, data, size, offset);
    if (torn) end();
    if (shared && n >= 0) atomic_fetch_add(&shared->writes, 1);
    if (counts && n > 0) note('w', at, "", where, data, n);
    return n;
}
ssize_t write(int fd, const void *data, size_t size) { return written(fd, data, size, -1); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return written(fd, data, size, offset); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) { return written(fd, data, size, offset); }
ssize_t writev(int fd, const struct iovec *parts, int count) {
    char at[PATH_MAX];
    if (!shared || !below(of_fd(fd, at))) {
        ssize_t n = syscall(SYS_writev, fd, parts, count);
        if (shared && n >= 0) atomic_fetch_add(&shared->writes, 1);
        return n;
    }
    ssize_t total = 0; /* one point a part: never more in one than a reader may see torn */
    for (int i = 0; i < count; i++) {
        ssize_t n = written(fd, parts[i].iov_base, parts[i].iov_len, -1);
        if (n < 0) return total ? total : -1;
        total += n;
        if ((size_t)n < parts[i].iov_len) break;
    }
    return total;
}

static int on_fd(int fd, char op, int64_t size, long call, long a, long b, long c) {
    char at[PATH_MAX];
    int counts = shared && below(of_fd(fd, at));
    if (counts) GATE(op == 'a', -1);
    int r = syscall(call, fd, a, b, c);
    if (counts && !r) note(op, at, "", size, "", 0);
    return r;
}
int fsync(int fd) { return on_fd(fd, 's', 0, SYS_fsync, 0, 0, 0); }
int fdatasync(int fd) { return on_fd(fd, 's', 0, SYS_fdatasync, 0, 0, 0); }
int ftruncate(int fd, off_t size) { return on_fd(fd, 'f', size, SYS_ftruncate, size, 0, 0); }
int ftruncate64(int fd, off64_t size) { return on_fd(fd, 'f', size, SYS_ftruncate, size, 0, 0); }
int fallocate(int fd, int mode, off_t from, off_t size) { return on_fd(fd, 'a', from + size, SYS_fallocate, mode, from, size); }
int fallocate64(int fd, int mode, off64_t from, off64_t size) { return on_fd(fd, 'a', from + size, SYS_fallocate, mode, from, size); }
int posix_fallocate(int fd, off_t from, off_t size) { return fallocate(fd, 0, from, size) ? errno : 0; }
int posix_fallocate64(int fd, off64_t from, off64_t size) { return fallocate(fd, 0, from, size) ? errno : 0; }

static int renamed(int dir, const char *from, int other, const char *to, unsigned flags) {
    char a[PATH_MAX], b[PATH_MAX];
    int counts = shared && below(of_path(other, to, b));
    if (counts) { of_path(dir, from, a); GATE(0, -1); }
    int r = syscall(SYS_renameat2, dir, from, other, to, flags);
    if (counts && !r) note('r', a, b, 0, "", 0);
    return r;
}
int rename(const char *from, const char *to) { return renamed(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int a, const char *from, int b, const char *to) { return renamed(a, from, b, to, 0); }
int renameat2(int a, const char *from, int b, const char *to, unsigned flags) { return renamed(a, from, b, to, flags); }

static int on_path(int dir, const char *path, char op, const char *other, long call, long x, long y, long z, long w) {
    char at[PATH_MAX];
    int counts = shared && below(of_path(dir, path, at));
    if (counts) GATE(op == 'm' || op == 'y', -1);
    int r = syscall(call, x, y, z, w);
    if (counts && !r) note(op, at, other, 0, "", 0);
    return r;
}
int unlinkat(int dir, const char *path, int flags) {
    return on_path(dir, path, flags & AT_REMOVEDIR ? 'd' : 'u', "", SYS_unlinkat, dir, (long)path, flags, 0);
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }
int mkdirat(int dir, const char *path, mode_t mode) { return on_path(dir, path, 'm', "", SYS_mkdirat, dir, (long)path, mode, 0); }
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }
int symlinkat(const char *to, int dir, const char *path) { return on_path(dir, path, 'y', to, SYS_symlinkat, (long)to, dir, (long)path, 0); }
int symlink(const char *to, const char *path) { return symlinkat(to, AT_FDCWD, path); }

/* the wall clock, for every reader of it; the steady clock is left alone */
int clock_gettime(clockid_t id, struct timespec *at) {
    int r = REAL(clock_gettime)(id, at);
    if (!r && shared && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) at->tv_sec += atomic_load(&shared->clock_s);
    return r;
}
int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    int r = REAL(gettimeofday)(at, zone);
    if (!r && shared) at->tv_sec += atomic_load(&shared->clock_s);
    return r;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
