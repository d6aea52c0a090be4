#define _GNU_SOURCE
#include "write_recorder.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int is_recording; /* read without the lock: a recording begins before the calls that it is about */
static char recorded_path[PATH_MAX];
static write_recorder_event *events;
static size_t event_count, event_capacity;

/* libc's function `name`. */
#define LIBC(name)                                                       \
  ({                                                                     \
    static __typeof__(name) *found;                                      \
    __typeof__(name) *known = __atomic_load_n(&found, __ATOMIC_RELAXED); \
    if (!known) {                                                        \
      known = (__typeof__(name) *)dlsym(RTLD_NEXT, #name);               \
      if (!known) abort();                                               \
      __atomic_store_n(&found, known, __ATOMIC_RELAXED);                 \
    }                                                                    \
    known;                                                               \
  })

static int concerns(int fd) {
  if (!__atomic_load_n(&is_recording, __ATOMIC_ACQUIRE)) return 0;
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return strcmp(path, recorded_path) == 0;
}

/* An event with room for `count` bytes, which the caller fills. The lock is held. */
static unsigned char *add(int kind, long long offset, size_t count) {
  if (event_count == event_capacity) {
    event_capacity = event_capacity ? 2 * event_capacity : 1024;
    events = realloc(events, event_capacity * sizeof *events);
  }
  unsigned char *bytes = count ? malloc(count) : NULL;
  if (!events || (count && !bytes)) abort();
  events[event_count++] = (write_recorder_event){kind, offset, count, bytes};
  return bytes;
}

static void note(int kind, long long offset) {
  pthread_mutex_lock(&lock);
  add(kind, offset, 0);
  pthread_mutex_unlock(&lock);
}

/* What of the pieces was really written: `done` bytes. */
static void note_write(int fd, const struct iovec *pieces, int count, long long offset, ssize_t done) {
  if (done <= 0) return;
  int flags = fcntl(fd, F_GETFL);
  int kind = flags >= 0 && (flags & O_DSYNC) ? WRITE_RECORDER_SYNCHRONOUS_WRITE : WRITE_RECORDER_WRITE;
  pthread_mutex_lock(&lock);
  unsigned char *bytes = add(kind, offset, (size_t)done);
  size_t left = (size_t)done;
  for (int i = 0; i < count && left; i++) {
    size_t part = pieces[i].iov_len < left ? pieces[i].iov_len : left;
    memcpy(bytes, pieces[i].iov_base, part);
    bytes += part;
    left -= part;
  }
  pthread_mutex_unlock(&lock);
}

/* MARK: what libraries call */

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset) {
  ssize_t done = LIBC(pwrite)(fd, bytes, count, offset);
  if (concerns(fd)) note_write(fd, &(struct iovec){(void *)bytes, count}, 1, offset, done);
  return done;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset) {
  return pwrite(fd, bytes, count, offset);
}

ssize_t pwritev(int fd, const struct iovec *pieces, int count, off_t offset) {
  ssize_t done = LIBC(pwritev)(fd, pieces, count, offset);
  if (concerns(fd)) note_write(fd, pieces, count, offset, done);
  return done;
}

ssize_t pwritev64(int fd, const struct iovec *pieces, int count, off64_t offset) {
  return pwritev(fd, pieces, count, offset);
}

/* Where a write without an offset began, once it is done. */
static long long began(int fd, ssize_t done) { return (long long)lseek(fd, 0, SEEK_CUR) - done; }

ssize_t write(int fd, const void *bytes, size_t count) {
  ssize_t done = LIBC(write)(fd, bytes, count);
  if (done > 0 && concerns(fd)) note_write(fd, &(struct iovec){(void *)bytes, count}, 1, began(fd, done), done);
  return done;
}

ssize_t writev(int fd, const struct iovec *pieces, int count) {
  ssize_t done = LIBC(writev)(fd, pieces, count);
  if (done > 0 && concerns(fd)) note_write(fd, pieces, count, began(fd, done), done);
  return done;
}

int fdatasync(int fd) {
  int code = LIBC(fdatasync)(fd);
  if (code == 0 && concerns(fd)) note(WRITE_RECORDER_SYNC, 0);
  return code;
}

int fsync(int fd) {
  int code = LIBC(fsync)(fd);
  if (code == 0 && concerns(fd)) note(WRITE_RECORDER_SYNC, 0);
  return code;
}

int ftruncate(int fd, off_t length) {
  int code = LIBC(ftruncate)(fd, length);
  if (code == 0 && concerns(fd)) note(WRITE_RECORDER_TRUNCATE, length);
  return code;
}

int ftruncate64(int fd, off64_t length) { return ftruncate(fd, length); }

/* MARK: what tests call */

void write_recorder_start(const char *path) {
  pthread_mutex_lock(&lock);
  for (size_t i = 0; i < event_count; i++) free((void *)events[i].bytes);
  event_count = 0;
  snprintf(recorded_path, sizeof recorded_path, "%s", path);
  pthread_mutex_unlock(&lock);
  __atomic_store_n(&is_recording, 1, __ATOMIC_RELEASE);
}

void write_recorder_mark(long long number) { note(WRITE_RECORDER_MARK, number); }

size_t write_recorder_stop(void) {
  __atomic_store_n(&is_recording, 0, __ATOMIC_RELEASE);
  pthread_mutex_lock(&lock);
  size_t count = event_count;
  pthread_mutex_unlock(&lock);
  return count;
}

write_recorder_event write_recorder_get(size_t index) { return events[index]; }
