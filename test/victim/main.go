// Command victim is a process that is there to be ended. It writes each TERM that it gets, with its PID, as a line of a file, and ends, or goes
// on if it is stubborn. Whoever starts it again under the same path sees an action that is carried out twice as a second line.
package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"
)

func main() {
	count := pflag.String("count", "", "file that gets a line for each TERM")
	stubborn := pflag.Bool("stubborn", false, "go on after a TERM")
	pflag.Parse()
	if err := live(os.Stdout, *count, *stubborn); err != nil {
		fmt.Fprintln(os.Stderr, "victim:", err)
		os.Exit(1)
	}
}

// live says that it is ready, once TERMs are counted.
func live(out io.Writer, count string, stubborn bool) error {
	terms := make(chan os.Signal, 16)
	signal.Notify(terms, syscall.SIGTERM)
	f, err := os.OpenFile(count, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, "ready"); err != nil {
		return err
	}
	for range terms {
		if _, err := fmt.Fprintln(f, os.Getpid()); err != nil {
			return err
		}
		if !stubborn {
			return f.Close()
		}
	}
	return nil
}
