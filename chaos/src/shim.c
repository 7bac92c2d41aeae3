/* Preloaded into a node: faults of its disk, its clock and its resolver. A fault is on while the file
 * with its name is in $CHAOS_FLAGS; a number in the file is its size. Only files below $CHAOS_DIR are
 * touched. Every call goes to the real function otherwise. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* The number in the flag file, 0 if it has none, -1 if there is no such file. System calls of their
 * own: the functions here may be called from the ones that libc uses. */
static long flag(const char *name) {
    const char *dir = getenv("CHAOS_FLAGS");
    char path[1024], text[32] = {0};
    if (!dir) return -1;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    long file = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return -1;
    long got = syscall(SYS_read, file, text, sizeof text - 1);
    syscall(SYS_close, file);
    return got > 0 ? atol(text) : 0;
}

static int has(const char *name) { int before = errno; long value = flag(name); errno = before; return value >= 0; }

static int ours(int fd) {
    const char *dir = getenv("CHAOS_DIR");
    char link[64], target[1024];
    if (!dir) return 0;
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t got = readlink(link, target, sizeof target - 1);
    errno = before;
    if (got <= 0) return 0;
    target[got] = 0;
    return strncmp(target, dir, strlen(dir)) == 0;
}

static void pause_while(const char *name) { while (has(name)) usleep(10000); }

/* With "undo", what a write replaces is kept in undo-INODE until the file is synced, so that a loss of
 * power can be played after a kill: all that was not synced is undone. A record is three numbers
 * (offset, bytes, size of the file before) and the bytes. With "lying-sync", syncs keep nothing. */
static void undo_path(char *path, size_t size, int fd) {
    struct stat file;
    path[0] = 0;
    if (fstat(fd, &file) == 0)
        snprintf(path, size, "%s/undo-%lu", getenv("CHAOS_FLAGS"), (unsigned long)file.st_ino);
}

static void remember(int fd, size_t len, off64_t at) {
    int before = errno;
    struct stat file;
    char path[1024], self[64];
    if (has("undo") && ours(fd) && fstat(fd, &file) == 0) {
        size_t old = at < file.st_size ? (size_t)(file.st_size - at) : 0;
        if (old > len) old = len;
        char *record = malloc(24 + old);
        unsigned long head[3] = {(unsigned long)at, old, (unsigned long)file.st_size};
        memcpy(record, head, 24);
        snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
        long in = syscall(SYS_openat, AT_FDCWD, self, O_RDONLY | O_CLOEXEC);
        if (syscall(SYS_pread64, in, record + 24, old, at) != (long)old) abort();
        syscall(SYS_close, in);
        undo_path(path, sizeof path, fd);
        long out = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (syscall(SYS_write, out, record, 24 + old) != (long)(24 + old)) abort();
        syscall(SYS_close, out);
        free(record);
    }
    errno = before;
}

static int synced(int fd, int result) {
    int before = errno;
    char path[1024];
    if (result == 0 && getenv("CHAOS_FLAGS") && !has("lying-sync")) {
        undo_path(path, sizeof path, fd);
        if (path[0]) unlink(path);
    }
    errno = before;
    return result;
}

static int sync_fault(int fd) {
    if (!ours(fd)) return 0;
    pause_while("stall-sync");
    long slow_ms = flag("slow-sync");
    if (slow_ms > 0) usleep(slow_ms * 1000);
    if (has("eio-sync")) { errno = EIO; return -1; }
    return 0;
}

static int write_fault(int fd) {
    if (!ours(fd)) return 0;
    pause_while("stall-write");
    if (has("no-room")) { errno = ENOSPC; return -1; }
    if (has("eio-write")) { errno = EIO; return -1; }
    return 0;
}

int fdatasync(int fd) { return sync_fault(fd) ? -1 : synced(fd, REAL(fdatasync)(fd)); }
int fsync(int fd) { return sync_fault(fd) ? -1 : synced(fd, REAL(fsync)(fd)); }
ssize_t pwrite64(int fd, const void *data, size_t len, off64_t at) {
    if (write_fault(fd)) return -1;
    remember(fd, len, at);
    return REAL(pwrite64)(fd, data, len, at);
}
ssize_t pwrite(int fd, const void *data, size_t len, off_t at) {
    if (write_fault(fd)) return -1;
    remember(fd, len, at);
    return REAL(pwrite)(fd, data, len, at);
}
int fallocate64(int fd, int mode, off64_t at, off64_t len) {
    return write_fault(fd) ? -1 : REAL(fallocate64)(fd, mode, at, len);
}
int ftruncate64(int fd, off64_t len) { return write_fault(fd) ? -1 : REAL(ftruncate64)(fd, len); }

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = (int)syscall(SYS_clock_gettime, clock, time);
    if (clock == CLOCK_REALTIME && result == 0) {
        int before = errno;
        const char *dir = getenv("CHAOS_FLAGS");
        char path[1024];
        if (dir) {
            snprintf(path, sizeof path, "%s/clock", dir);
            if (syscall(SYS_faccessat, AT_FDCWD, path, F_OK) == 0) time->tv_sec += flag("clock");
        }
        errno = before;
    }
    return result;
}

/* Names below ".chaos" are 127.0.0.1. With "dead-address" each has a second one, first, at which
 * nothing listens. */
int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    const char *suffix = node ? strstr(node, ".chaos") : 0;
    if (!suffix) return REAL(getaddrinfo)(node, service, hints, found);
    long slow_ms = flag("slow-names");
    if (slow_ms > 0) usleep(slow_ms * 1000);
    if (has("no-names")) return EAI_AGAIN;
    if (!has("dead-address")) return REAL(getaddrinfo)("127.0.0.1", service, hints, found);
    struct addrinfo *dead = 0, *alive = 0;
    int error = REAL(getaddrinfo)("127.99.99.99", service, hints, &dead);
    if (error) return error;
    error = REAL(getaddrinfo)("127.0.0.1", service, hints, &alive);
    if (error) return error;
    struct addrinfo *last = dead;
    while (last->ai_next) last = last->ai_next;
    last->ai_next = alive;
    *found = dead;
    return 0;
}
