internal import Bytes
internal import ExtentJournal
internal import Glibc
internal import NBDSource

/// What OUTPUT of `spillway replay` names.
package enum ReplayOutput: Sendable, Equatable {
  /// A raw image: a regular file or a block device, at an absolute path.
  case raw(path: String)
  /// A qcow2 file, at an absolute path.
  case qcow2(path: String)
  /// An NBD export.
  case export(uri: String)
  /// A raw image on stdout.
  case stream

  private static let schemes = ["nbd", "nbds", "nbd+unix", "nbds+unix", "nbd+vsock", "nbds+vsock"]

  /// What `text` means, seen from `currentDirectory`.
  package init(parsing text: String, currentDirectory: String) throws(ServiceError) {
    guard !text.isEmpty, !text.utf8.contains(0) else {
      throw .usage("replay: OUTPUT is a path, an NBD URI, or - for stdout")
    }
    let path = AbsolutePath.of(text, in: currentDirectory)
    if text == "-" {
      self = .stream
    } else if Self.schemes.contains(where: { text.hasPrefix($0 + "://") }) {
      self = .export(uri: text)
    } else if text.hasPrefix("nbd:") || text.hasPrefix("nbds:") || text.contains("://") {
      throw .usage(
        "replay \(text): this is no NBD URI such as nbd://HOST/EXPORT or nbd+unix:///EXPORT?socket=PATH (./NAME is a file)"
      )
    } else {
      self = text.hasSuffix(".qcow2") ? .qcow2(path: path) : .raw(path: path)
    }
  }

  /// Refuses what can be refused before the journal is looked at.
  func check(_ options: ReplayOptions) throws(ServiceError) {
    switch self {
    case .stream:
      if options.verifies {
        throw .usage("replay -: what went to stdout cannot be read back; leave out --verify")
      }
      if options.since != nil {
        throw .usage("replay -: stdout holds no older generation; leave out --since")
      }
      if isatty(STDOUT_FILENO) == 1 {
        throw .usage("replay -: stdout is a terminal; send it to a file or a program")
      }
    case .qcow2(let path), .raw(let path):
      if case .qcow2 = self { try QCOW2Image.requirePrograms() }
      try checkFile(path, options)
    case .export: break
    }
  }

  private func checkFile(_ path: String, _ options: ReplayOptions) throws(ServiceError) {
    guard let status = Self.status(path) else {
      guard let since = options.since else { return }
      throw .usage("\(path) is not there; with --since \(since) it must hold that generation")
    }
    switch status.st_mode & S_IFMT {
    case S_IFREG:
      guard status.st_size == 0 || options.force || options.since != nil else {
        throw .usage("\(path) exists and is not empty; --force overwrites it")
      }
    case S_IFBLK:
      if case .raw = self { return }
      throw .usage("\(path) is no regular file")
    default:
      throw .usage("\(path) is neither a regular file nor a block device")
    }
  }

  /// Opens it for a disk of `byteCount` bytes. What must not be left behind when a signal comes is told to `work`.
  func open(byteCount: UInt64, _ options: ReplayOptions) throws(ServiceError) -> OpenOutput {
    switch self {
    case .stream:
      // Who reads may go away: that is an error, not a signal.
      signal(SIGPIPE, SIG_IGN)
      return OpenOutput(StreamImage(STDOUT_FILENO, name: "stdout"), "")
    case .export(let uri):
      let (image, found): (ExportImage, UInt64)
      do throws(SourceError) {
        let target = try NBDTarget(uri: uri)
        found = target.byteCount
        image = ExportImage(target, isFresh: false)
      } catch {
        throw .failed(error.message)
      }
      guard found >= byteCount else {
        throw .usage("\(uri) has \(found) bytes and the disk has \(byteCount)")
      }
      return OpenOutput(image, reader: image, Self.incomplete(uri, options))
    case .raw(let path):
      let isDevice = Self.status(path).map { $0.st_mode & S_IFMT == S_IFBLK } ?? false
      if isDevice || options.since != nil {
        let image = try reportingJournalErrors { () throws(JournalError) in
          try RawImage(updating: path, byteCount: byteCount)
        }
        return OpenOutput(image, reader: image, Self.incomplete(path, options))
      }
      return try rawFile(path, byteCount, options)
    case .qcow2(let path):
      return try options.since == nil
        ? freshQCOW2(path, byteCount, options) : olderQCOW2(path, byteCount, options)
    }
  }

  private func rawFile(
    _ path: String, _ byteCount: UInt64, _ options: ReplayOptions
  ) throws(ServiceError) -> OpenOutput {
    let work = try UnfinishedWork()
    let file = try PartialFile(for: path)
    work.onSignal { file.discard() }
    let image = try reportingJournalErrors { () throws(JournalError) in
      try RawImage(creating: file.path, byteCount: byteCount)
    }
    var output = OpenOutput(image, reader: image, "nothing of it was kept")
    output.settle = { () throws(ServiceError) in
      try work.settle { () throws(ServiceError) in
        try checkFile(path, options)
        try file.settle()
      }
    }
    output.discard = { file.discard() }
    return output
  }

  private func freshQCOW2(
    _ path: String, _ byteCount: UInt64, _ options: ReplayOptions
  ) throws(ServiceError) -> OpenOutput {
    let work = try UnfinishedWork()
    let file = try PartialFile(for: path)
    work.onSignal { file.discard() }
    try file.create()
    do throws(ServiceError) {
      try QCOW2Image.make(file.path, byteCount: byteCount)
      let qcow2 = try QCOW2Image(opening: file.path) { work.onSignal($0) }
      let image = qcow2.image(isFresh: true)
      var output = OpenOutput(image, reader: image, "nothing of it was kept")
      output.settle = { () throws(ServiceError) in
        try qcow2.close()
        try work.settle { () throws(ServiceError) in
          try checkFile(path, options)
          try file.settle()
        }
      }
      output.discard = {
        qcow2.abandon()
        file.discard()
      }
      return output
    } catch {
      file.discard()
      throw error
    }
  }

  private func olderQCOW2(
    _ path: String, _ byteCount: UInt64, _ options: ReplayOptions
  ) throws(ServiceError) -> OpenOutput {
    let work = try UnfinishedWork()
    let qcow2 = try QCOW2Image(opening: path) { work.onSignal($0) }
    guard qcow2.byteCount == byteCount else {
      qcow2.abandon()
      throw .usage("\(path) has \(qcow2.byteCount) bytes and the disk has \(byteCount)")
    }
    let image = qcow2.image(isFresh: false)
    var output = OpenOutput(image, reader: image, Self.incomplete(path, options))
    output.settle = { () throws(ServiceError) in try qcow2.close() }
    output.discard = { qcow2.abandon() }
    return output
  }

  private static func incomplete(_ name: String, _ options: ReplayOptions) -> String {
    options.since == nil ? "\(name) is incomplete" : "\(name) is incomplete until the same command succeeds"
  }

  private static func status(_ path: String) -> stat? {
    var status = stat()
    // SAFETY: stat fills the structure that it is given and keeps nothing.
    return unsafe stat(path, &status) == 0 ? status : nil
  }
}

/// An output that is being written, and what becomes of it.
struct OpenOutput {
  let sink: any ImageSink
  /// Nil where nothing can be read back.
  let reader: (any ImageReader)?
  /// What is left of it after a failure, as the end of a sentence; may be empty.
  let remains: String
  /// Makes it what OUTPUT names. Then it is done.
  var settle: () throws(ServiceError) -> Void = { () throws(ServiceError) in }
  /// Leaves as little of it as can be.
  var discard: () -> Void = {}

  init(_ sink: any ImageSink, reader: (any ImageReader)? = nil, _ remains: String) {
    self.sink = sink
    self.reader = reader
    self.remains = remains
  }
}
