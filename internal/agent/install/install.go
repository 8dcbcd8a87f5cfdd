// Package install makes the agent a service of systemd: the programs, the unit, the settings, the token.
package install

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/rollcall-dev/rollcall/internal/agent/client"
	"github.com/rollcall-dev/rollcall/internal/agent/state"
	"github.com/rollcall-dev/rollcall/internal/identity"
)

// Where things are on an installed machine.
const (
	StateDir = "/var/lib/rollcall"
	Unit     = "rollcall-agent.service"

	binDir   = "/usr/local/bin"
	unitFile = "/etc/systemd/system/" + Unit
	envFile  = "/etc/rollcall/agent.env"
)

//go:embed rollcall-agent.service
var unitText []byte

// Options of an installation.
type Options struct {
	Server, Proxy *url.URL
	// Token to enrol with; zero where the machine has an identity already.
	Token identity.Token
	// Executable is the agent that runs; cytool is looked for beside it.
	Executable string
	// Root is where the machine's files are, "" for this machine. With it nothing is started: it is for images.
	Root string
	Out  io.Writer
}

// Run installs the agent, and starts it unless Root is set. It may be repeated: it changes what is there into what is asked for.
func Run(ctx context.Context, o Options) error {
	live := o.Root == ""
	if live {
		if err := ready(); err != nil {
			return err
		}
		// The state directory is locked by an agent that runs. That there is none is no error.
		_ = systemctl(ctx, "stop", Unit)
	}
	for _, step := range []func() error{
		func() error { return o.copyPrograms() },
		func() error { return o.write(envFile, o.environment(), 0o600) },
		func() error { return o.write(unitFile, unitText, 0o644) },
		o.saveToken,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	if !live {
		return nil
	}
	for _, args := range [][]string{{"daemon-reload"}, {"enable", Unit}, {"restart", Unit}} {
		if err := systemctl(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

func ready() error {
	if os.Geteuid() != 0 {
		return errors.New("installing needs root: run it with sudo")
	}
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return errors.New("systemd does not run here; start the agent by what does: rollcall-agent run --server URL --token-file FILE")
	}
	return nil
}

func (o Options) copyPrograms() error {
	for _, name := range []string{"rollcall-agent", "cytool"} {
		from := filepath.Join(filepath.Dir(o.Executable), name)
		if name == "rollcall-agent" {
			from = o.Executable // by whatever name it was downloaded
		}
		to := filepath.Join(o.Root, binDir, name)
		if from == to {
			continue
		}
		b, err := os.ReadFile(from)
		if name == "cytool" && errors.Is(err, fs.ErrNotExist) {
			_, _ = fmt.Fprintln(o.Out, "no cytool beside the agent: copy it to", binDir, "yourself, to see the agent's state")
			continue
		}
		if err != nil {
			return fmt.Errorf("install %s: %w", name, err)
		}
		if err := o.write(filepath.Join(binDir, name), b, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (o Options) environment() []byte {
	var b strings.Builder
	b.WriteString("# Settings of rollcall-agent.service, written by: rollcall-agent install\n")
	b.WriteString("ROLLCALL_SERVER=" + o.Server.String() + "\n")
	if o.Proxy != nil {
		b.WriteString("ROLLCALL_PROXY=" + o.Proxy.String() + "\n")
	}
	return []byte(b.String())
}

// write replaces a file by rename: a program that runs cannot be written to.
func (o Options) write(path string, b []byte, mode fs.FileMode) error {
	path = filepath.Join(o.Root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // /etc and /usr/local are for all to read
		return fmt.Errorf("install: %w", err)
	}
	if err := os.WriteFile(path+".new", b, mode); err != nil { //nolint:gosec // the paths are those above
		return fmt.Errorf("install: %w", err)
	}
	if err := errors.Join(os.Chmod(path+".new", mode), os.Rename(path+".new", path)); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	_, _ = fmt.Fprintln(o.Out, "wrote", path)
	return nil
}

func (o Options) saveToken() error {
	if o.Token.UID == "" {
		return nil
	}
	dir, err := state.Open(filepath.Join(o.Root, StateDir))
	if err != nil {
		return err
	}
	return errors.Join(dir.SaveToken(o.Token), dir.Close())
}

func systemctl(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Describe says in a line what Run will do.
func (o Options) Describe() string {
	proxy := client.ProxyName(o.Proxy)
	if proxy == "" {
		proxy = "no proxy"
	}
	return fmt.Sprintf("installing rollcall-agent for %s (%s)", o.Server, proxy)
}
