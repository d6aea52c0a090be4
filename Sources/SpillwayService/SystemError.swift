internal import Glibc

/// The system's words for an error number.
enum SystemError {
  /// What `number` (an `errno`) means, in the system's words.
  static func text(_ number: Int32) -> String {
    // SAFETY: strerror returns a NUL-terminated string that lives until this thread's next call of it, and it
    // is copied here.
    guard let text = unsafe strerror(number) else { return "error \(number)" }
    return unsafe String(cString: text)
  }
}
