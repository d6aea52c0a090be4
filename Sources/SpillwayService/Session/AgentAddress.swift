internal import Logging
internal import QEMUMonitor

/// Where the agent in the guest is reached. It stands in a session's record for as long as the guest may be frozen, so that
/// whoever tears down thaws it.
package enum AgentAddress: Codable, Sendable, Hashable {
  /// The unix socket that qemu offers.
  case socket(path: String)
  /// Through libvirt.
  case libvirt(domain: String)

  /// Begins a conversation. That an agent is there is known only when it answers.
  func connect() throws(QMPError) -> any GuestAgent {
    switch self {
    case .socket(let path): try GuestAgentConnection(connectingTo: path)
    case .libvirt(let domain): LibvirtGuestAgent(domain: domain)
    }
  }

  /// Thaws a guest that a session left frozen. Harmless when it is not.
  func thaw(_ log: Logger) {
    do throws(QMPError) {
      try connect().thaw()
      log.warning("the guest's filesystems, which an interrupted session had frozen, are thawed")
    } catch {
      log.error("THE GUEST'S FILESYSTEMS MAY STILL BE FROZEN: \(error)")
    }
  }
}
