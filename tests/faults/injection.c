/* Preloaded (LD_PRELOAD): counts the C library's calls that change files below a folder, and before
   the Nth one kills the process, or makes it fail. Built and armed by faults.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[4096];
static int number, error, removals, hits;

/* Count calls below `below`; at the `nth` (0: never) fail with `code`, or be killed if it is 0.
   `also` 0: calls that remove something are not counted. */
void fault_arm(const char *below, int nth, int code, int also)
{
    snprintf(folder, sizeof folder, "%s", below);
    number = nth, error = code, removals = also, hits = 0;
}

int fault_hits(void) { return hits; }

static int below(int at, const char *path)
{
    char link[64], whole[8192];
    size_t length = strlen(folder);
    if (!length)
        return 0;
    if (path && path[0] == '/')
        return !strncmp(path, folder, length);
    if (at == AT_FDCWD) {
        if (!getcwd(whole, sizeof whole))
            return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t got = readlink(link, whole, sizeof whole - 1);
        if (got < 0)
            return 0;
        whole[got] = 0;
    }
    return !strncmp(whole, folder, length);
}

/* Whether this call is to fail. */
static int fails(int at, const char *path)
{
    if (!below(at, path) || ++hits != number)
        return 0;
    if (!error)
        kill(getpid(), SIGKILL);
    errno = error;
    return 1;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define CALL(result, name, declared, passed, at, path) \
    result name declared \
    { \
        if (fails(at, path)) \
            return -1; \
        return REAL(name) passed; \
    }
#define REMOVE(name, declared, passed, at, path) \
    int name declared \
    { \
        if (removals && fails(at, path)) \
            return -1; \
        return REAL(name) passed; \
    }
#define OPEN(name, declared, passed, at) \
    int name declared \
    { \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        if (flags & (O_CREAT | O_TRUNC) && fails(at, path)) \
            return -1; \
        return REAL(name) passed; \
    }

OPEN(open, (const char *path, int flags, ...), (path, flags, mode), AT_FDCWD)
OPEN(open64, (const char *path, int flags, ...), (path, flags, mode), AT_FDCWD)
OPEN(openat, (int at, const char *path, int flags, ...), (at, path, flags, mode), at)
OPEN(openat64, (int at, const char *path, int flags, ...), (at, path, flags, mode), at)
CALL(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size), fd, NULL)
CALL(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at),
     (fd, data, size, at), fd, NULL)
CALL(ssize_t, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count), fd, NULL)
CALL(int, ftruncate64, (int fd, off64_t size), (fd, size), fd, NULL)
CALL(int, truncate64, (const char *path, off64_t size), (path, size), AT_FDCWD, path)
CALL(int, fsync, (int fd), (fd), fd, NULL)
CALL(int, fdatasync, (int fd), (fd), fd, NULL)
CALL(int, mkdir, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path)
CALL(int, mkdirat, (int at, const char *path, mode_t mode), (at, path, mode), at, path)
CALL(int, rename, (const char *from, const char *path), (from, path), AT_FDCWD, path)
CALL(int, renameat, (int old, const char *from, int at, const char *path),
     (old, from, at, path), at, path)
CALL(int, renameat2, (int old, const char *from, int at, const char *path, unsigned flags),
     (old, from, at, path, flags), at, path)
CALL(int, link, (const char *from, const char *path), (from, path), AT_FDCWD, path)
CALL(int, linkat, (int old, const char *from, int at, const char *path, int flags),
     (old, from, at, path, flags), at, path)
CALL(int, symlink, (const char *from, const char *path), (from, path), AT_FDCWD, path)
CALL(int, chmod, (const char *path, mode_t mode), (path, mode), AT_FDCWD, path)
CALL(int, fchmod, (int fd, mode_t mode), (fd, mode), fd, NULL)
CALL(ssize_t, copy_file_range,
     (int in, off64_t *from, int out, off64_t *at, size_t size, unsigned flags),
     (in, from, out, at, size, flags), out, NULL)
CALL(ssize_t, sendfile64, (int out, int in, off64_t *from, size_t size), (out, in, from, size), out,
     NULL)
CALL(ssize_t, sendfile, (int out, int in, off_t *from, size_t size), (out, in, from, size), out,
     NULL)
REMOVE(unlink, (const char *path), (path), AT_FDCWD, path)
REMOVE(unlinkat, (int at, const char *path, int flags), (at, path, flags), at, path)
REMOVE(rmdir, (const char *path), (path), AT_FDCWD, path)
