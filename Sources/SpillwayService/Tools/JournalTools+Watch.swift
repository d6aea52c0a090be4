internal import QEMUMonitor

extension JournalTools {
  /// `spillway status --watch`: says what `status` says again and again, through `print`: the table as a block of lines with
  /// an empty one behind it, or as a screen of `terminal`, asked each time, or `asJSON` an object a line.
  ///
  /// Never returns unless `pause`, which waits between two of them, returns false. A daemon that is starting or stopping is
  /// no end of it; a journal that cannot be read is.
  package func watchStatus(
    asJSON: Bool, on terminal: () -> Terminal?, pause: () -> Bool, print: (String) -> Void
  ) throws(ServiceError) {
    repeat {
      do throws(ServiceError) {
        let value = try statusValue()
        if asJSON {
          print(try value.text() + "\n")
        } else {
          show(try statusTable(value), on: terminal(), print)
        }
      } catch {
        guard error.status == .inUse else { throw error }
        if !asJSON { show(error.message + "\n", on: terminal(), print) }
      }
    } while pause()
  }

  private func show(_ text: String, on terminal: Terminal?, _ print: (String) -> Void) {
    print(terminal?.screen(text) ?? text + "\n")
  }
}
