//go:build race

package listen

// The race detector multiplies a process' memory and time.
const raced = 4
