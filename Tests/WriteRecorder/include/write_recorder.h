/* Records what the process does to one file, in order: for LMDB, which writes past every seam that a test can stand in.

   Linking this target into a program puts it between the program's libraries and libc: their writes and syncs come here
   first and go on to libc. Until `write_recorder_start` and after `write_recorder_stop` that is all. */
#ifndef WRITE_RECORDER_H
#define WRITE_RECORDER_H

#include <stddef.h>

enum {
  WRITE_RECORDER_WRITE = 1,
  /* A write through a descriptor with O_DSYNC or O_SYNC: durable when it returned. */
  WRITE_RECORDER_SYNCHRONOUS_WRITE = 2,
  WRITE_RECORDER_SYNC = 3,
  WRITE_RECORDER_TRUNCATE = 4,
  /* `write_recorder_mark` was called with `offset`. */
  WRITE_RECORDER_MARK = 5
};

typedef struct {
  int kind;
  long long offset;
  size_t count;
  const unsigned char *bytes;
} write_recorder_event;

/* Forgets everything and records what is done to the file `path` (absolute, without links) from now on. */
void write_recorder_start(const char *path);
void write_recorder_mark(long long number);
/* Ends the recording and returns how many events it has. They stay until the next start. */
size_t write_recorder_stop(void);
write_recorder_event write_recorder_get(size_t index);

#endif
