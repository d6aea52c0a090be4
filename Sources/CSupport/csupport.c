#define _GNU_SOURCE
#include "csupport.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

const int spw_O_DIRECT = O_DIRECT;
const short spw_POLLRDHUP = POLLRDHUP;
const int spw_MUTEX_ADAPTIVE = PTHREAD_MUTEX_ADAPTIVE_NP;
const int spw_POSIX_SPAWN_SETSID = POSIX_SPAWN_SETSID;

int spw_open(const char *path, int flags, unsigned mode) { return open(path, flags, (mode_t)mode); }

int spw_punch_hole(int fd, off_t offset, off_t length) {
  return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length);
}

off_t spw_next_hole(int fd, off_t offset) { return lseek(fd, offset, SEEK_HOLE); }

int spw_allocate(int fd, off_t length) { return fallocate(fd, 0, 0, length); }

void *spw_map_twice(int fd, off_t offset, size_t length) {
  /* Reserve the whole range first, so that the second half cannot land on somebody else's mapping. */
  char *base = mmap(NULL, 2 * length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return NULL;
  for (int half = 0; half < 2; half++) {
    void *at = base + (size_t)half * length;
    if (mmap(at, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, offset) == MAP_FAILED) {
      int why = errno;
      munmap(base, 2 * length);
      errno = why;
      return NULL;
    }
  }
  return base;
}

int spw_unmap_twice(void *base, size_t length) { return munmap(base, 2 * length); }

void spw_name_thread(const char *name) { pthread_setname_np(pthread_self(), name); }

int spw_accept(int fd) { return accept4(fd, NULL, NULL, SOCK_CLOEXEC); }

uid_t spw_peer_user(int fd) {
  struct ucred credentials;
  socklen_t length = sizeof credentials;
  return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) == 0 ? credentials.uid : (uid_t)-1;
}

int spw_event(void) { return eventfd(0, EFD_CLOEXEC); }

struct spw_size spw_terminal_size(int fd) {
  struct winsize size;
  if (ioctl(fd, TIOCGWINSZ, &size) != 0) return (struct spw_size){0, 0};
  return (struct spw_size){size.ws_row, size.ws_col};
}
