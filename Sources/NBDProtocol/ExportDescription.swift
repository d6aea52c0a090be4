/// What the protocol needs to know of an export to negotiate it and to judge requests.
package struct ExportDescription: Sendable, Equatable {
  /// The name that clients ask for.
  package var name: String
  /// A sentence for people (NBD_INFO_DESCRIPTION, NBD_OPT_LIST).
  package var text: String
  /// Size in bytes.
  package var byteCount: UInt64
  /// Whether writes of any kind are refused with EPERM.
  package var isReadOnly: Bool
  /// Whether TRIM is the one change that it takes: it is not announced as read-only then, and all others get EPERM.
  package var takesOnlyTrims: Bool
  /// Smallest block in bytes that requests may address: 1 (any byte range) or 512.
  package var minimumBlock: UInt32
  /// What clients should use, in bytes.
  package var preferredBlock: UInt32
  /// The largest payload in bytes that is advertised.
  package var maximumPayload: UInt32
  /// The metadata contexts it has, by their names on the wire.
  package var contexts: [String]
  /// Whether only clients behind TLS see it and may use it.
  package var requiresTLS: Bool

  /// The context that every export has: which parts hold data, and which are known to be zeroes.
  package static let allocationContext = "base:allocation"

  /// The default sizes suit most clients: 64 KiB preferred, 32 MiB as the largest payload.
  package init(
    name: String, text: String, byteCount: UInt64, isReadOnly: Bool, minimumBlock: UInt32,
    takesOnlyTrims: Bool = false, preferredBlock: UInt32 = 64 << 10, maximumPayload: UInt32 = 32 << 20,
    contexts: [String] = [ExportDescription.allocationContext], requiresTLS: Bool = false
  ) {
    precondition(!(isReadOnly && takesOnlyTrims), "what is read-only takes no trims")
    self.name = name
    self.text = text
    self.byteCount = byteCount
    self.isReadOnly = isReadOnly
    self.takesOnlyTrims = takesOnlyTrims
    self.minimumBlock = minimumBlock
    self.preferredBlock = preferredBlock
    self.maximumPayload = maximumPayload
    self.contexts = contexts
    self.requiresTLS = requiresTLS
  }
}

/// One extent of a block status reply.
package struct BlockExtent: Sendable, Equatable {
  /// Length in bytes.
  package var byteCount: UInt64
  /// Flags of the context: for `base:allocation` bit 0 is HOLE and bit 1 is ZERO.
  package var flags: UInt32

  /// An extent that follows the one before it: its place is not said.
  package init(byteCount: UInt64, flags: UInt32) {
    self.byteCount = byteCount
    self.flags = flags
  }
}

/// The errors that may appear on the wire, and no others.
package enum NBDError: UInt32, Sendable, Error {
  case notPermitted = 1  // EPERM
  case inputOutput = 5  // EIO
  case noMemory = 12  // ENOMEM
  case invalid = 22  // EINVAL
  case noSpace = 28  // ENOSPC
  case overflow = 75  // EOVERFLOW
  case notSupported = 95  // ENOTSUP
  case shutdown = 108  // ESHUTDOWN
}
