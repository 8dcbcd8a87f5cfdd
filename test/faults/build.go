package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/rollcall-dev/rollcall/test/harness"
)

// build builds what is shipped, with the points at which it ends, into a directory; and the victim.
func build(ctx context.Context, dir string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-tags=faults", "-o", dir+string(filepath.Separator), "./cmd/manager", "./cmd/gateway", "./cmd/agent", "./test/victim")
	cmd.Dir, cmd.Stderr = harness.Root(), os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build the programs: %w", err)
	}
	var failures []error
	for _, name := range []string{"manager", "gateway", "agent"} {
		failures = append(failures, os.Rename(filepath.Join(dir, name), filepath.Join(dir, "rollcall-"+name)))
	}
	return errors.Join(failures...)
}
