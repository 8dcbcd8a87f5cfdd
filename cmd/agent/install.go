package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"github.com/rollcall-dev/rollcall/internal/agent/control"
	"github.com/rollcall-dev/rollcall/internal/agent/install"
	"github.com/rollcall-dev/rollcall/internal/agent/state"
	"github.com/rollcall-dev/rollcall/internal/agent/status"
)

func installService(ctx context.Context, args []string, s std) error {
	f := pflag.NewFlagSet("install", pflag.ContinueOnError)
	var set settings
	set.addFlags(f)
	root := f.String("root", "", "install into this directory, an image's, and start nothing")
	patience := f.Duration("wait", time.Minute, "how long to wait until the machine has enrolled and is online; 0: don't")
	if err := parse(f, args, s); err != nil {
		return err
	}
	if err := set.parse(); err != nil {
		return err
	}
	token, err := set.token(s.in)
	if err != nil {
		return err
	}
	if state.Has(filepath.Join(*root, install.StateDir)) {
		_, _ = fmt.Fprintln(s.out, "this machine has enrolled already and keeps its identity (to forget it: rollcall-agent reset)")
		token.UID = ""
	} else if token.UID == "" {
		return misused("--token-file FILE, or - for stdin, is missing: this machine has not enrolled yet")
	}
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	o := install.Options{Server: set.serverURL, Proxy: set.proxyURL, Token: token, Executable: exe, Root: *root, Out: s.out}
	_, _ = fmt.Fprintln(s.out, o.Describe())
	if err := install.Run(ctx, o); err != nil {
		return err
	}
	if *root != "" || *patience == 0 {
		return nil
	}
	return awaitOnline(ctx, s, *patience)
}

// awaitOnline asks the agent until it is online, or says what is in the way.
func awaitOnline(ctx context.Context, s std, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	agent := control.NewClient(install.StateDir)
	var last status.Status
	for {
		now, err := agent.Status(ctx)
		if err == nil {
			last = now
		}
		hopeless := len(last.Problems) > 0 && last.Problems[0].RetryInSeconds == nil
		if last.State == "Online" {
			return last.Write(s.out)
		}
		if hopeless || ctx.Err() != nil {
			if last.State == "" {
				return errors.New("the agent does not answer: journalctl -u rollcall-agent")
			}
			if err := last.Write(s.out); err != nil {
				return err
			}
			return errors.New("the agent is installed, and not online yet: see above; cytool status shows how it goes on")
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}
