/* Linux calls and constants that Swift's Glibc module does not show (it is built without _GNU_SOURCE). */
#ifndef SPILLWAY_CSUPPORT_H
#define SPILLWAY_CSUPPORT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

extern const int spw_O_DIRECT;
extern const short spw_POLLRDHUP;
extern const int spw_MUTEX_ADAPTIVE;
extern const int spw_POSIX_SPAWN_SETSID;

/* open(2) with a mode, for Swift cannot call variadics. Returns -1 and errno as open does. */
int spw_open(const char *path, int flags, unsigned mode);

/* fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE): gives a range back to the filesystem. */
int spw_punch_hole(int fd, off_t offset, off_t length);

/* lseek(SEEK_HOLE): where the first hole at or behind `offset` begins, at the latest the end of the file; -1 with errno. */
off_t spw_next_hole(int fd, off_t offset);

/* fallocate(0) of the first `length` bytes: blocks for them, and the file is as long. */
int spw_allocate(int fd, off_t length);

/* Maps `length` bytes of `fd` from `offset` twice, back to back, so that a ring never wraps inside a record.
   NULL on failure, with errno. Undo with spw_unmap_twice. */
void *spw_map_twice(int fd, off_t offset, size_t length);
int spw_unmap_twice(void *base, size_t length);

/* Names the calling thread (15 bytes are kept). */
void spw_name_thread(const char *name);

/* accept4 with SOCK_CLOEXEC: a child process must not keep a client's connection open. */
int spw_accept(int fd);

/* The user at the other end of a unix stream socket, or (uid_t)-1. */
uid_t spw_peer_user(int fd);

/* An eventfd (CLOEXEC, blocking) at 0: readable once somebody has written to it. */
int spw_event(void);

/* The size of the terminal behind `fd`; zeroes when it does not say. */
struct spw_size { unsigned short rows, columns; };
struct spw_size spw_terminal_size(int fd);

#endif
