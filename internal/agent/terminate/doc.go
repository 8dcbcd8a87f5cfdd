// Package terminate ends processes, on Linux: those that are named and no others, whatever happens meanwhile.
//
// A PID may be another process's by the time that a signal is sent to it. So a process is held by a pidfd first; what is told of it in /proc is
// compared after that; and signals go to the pidfd. If the process has ended in between, the pidfd reaches nobody, whoever has its PID now.
//
// A process with its descendants is stopped for a moment, parents first, until a look finds no descendant that is not stopped: what does not run
// starts nothing. Only then do all of them get TERM, and go on, each to its end. Without the stop, a parent could start a child between the look
// and its own end, and the child would be nobody's descendant any more. KILL follows another stop. One gap is left that Linux gives no means to
// close: what a process starts while it handles TERM, right before its own end, is found only if a look comes in between.
package terminate
