internal import BlockFile
internal import CSupport
internal import Glibc

// How a process that only reads a journal keeps its owner from freeing what it may still read: it holds a lock of
// `DIR/readers` together with others (flock) from before it takes its snapshot of the index. The owner frees only while it
// holds that lock alone, and does not wait for it: what cannot be freed now is freed later. A reader that dies lets go.

/// The lock, held until the value goes.
struct ReaderPin: ~Copyable, Sendable {
  private let descriptor: Int32

  /// For a reader: waits while the owner frees something. Nil where the file can be neither opened nor made (a journal on a
  /// medium that cannot be written to): nobody frees anything there.
  init?(reading directory: String) {
    guard let opened = Self.open(directory, O_RDONLY) ?? Self.open(directory, O_RDWR | O_CREAT) else {
      return nil
    }
    while flock(opened, LOCK_SH) != 0 {
      guard errno == EINTR else {
        close(opened)
        return nil
      }
    }
    descriptor = opened
  }

  /// For the owner; nil while anybody reads.
  init?(freeing directory: String) {
    guard let opened = Self.open(directory, O_RDWR | O_CREAT) else { return nil }
    guard flock(opened, LOCK_EX | LOCK_NB) == 0 else {
      close(opened)
      return nil
    }
    descriptor = opened
  }

  deinit { close(descriptor) }

  private static func open(_ directory: String, _ flags: Int32) -> Int32? {
    let descriptor = unsafe spw_open(directory + "/readers", flags | O_CLOEXEC, 0o600)
    return descriptor >= 0 ? descriptor : nil
  }
}
