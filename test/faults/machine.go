package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	statev1 "github.com/rollcall-dev/rollcall/api/agent/state/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/internal/agent/control"
	"github.com/rollcall-dev/rollcall/internal/agent/state"
	"github.com/rollcall-dev/rollcall/internal/agent/status"
)

var agentArgs = []string{
	"--websocket-ping=500ms", "--websocket-answer=1s", "--websocket-silence=2s", "--websocket-retry-max=300ms", "--websocket-grace=300ms",
	"--websocket-stable=3s", "--websocket-floor=100ms", "--websocket-look=200ms", "--websocket-dial=2s", "--retry-base=50ms", "--retry-max=300ms",
	"--refused-retry=300ms", "--action-repeat=1s", "--action-running=200ms",
}

// patience for what takes a moment, on a loaded machine.
const patience = 40 * time.Second

// machine is an agent with its state directory.
type machine struct {
	*local.Process
	channel v1alpha1.Channel
	dir     string
	fault   string // its --fault-file
	program string
	args    []string
	// endpoint is its name, once it has enrolled.
	endpoint string
}

func newMachine(bin, dir, gateway, token string, channel v1alpha1.Channel) (*machine, error) {
	m := &machine{channel: channel, dir: filepath.Join(dir, "state"), fault: filepath.Join(dir, "fault"), program: filepath.Join(bin, "rollcall-agent")}
	if err := os.MkdirAll(m.dir, 0o700); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "token")
	m.args = append([]string{"run", "--state-dir=" + m.dir, "--server=https://" + gateway, "--token-file=" + file, "--fault-file=" + m.fault}, agentArgs...)
	return m, os.WriteFile(file, []byte(token), 0o600)
}

// start starts it, again perhaps, on the same state.
func (m *machine) start() (err error) {
	m.Process, err = local.Start("agent", filepath.Join(m.dir, "..", "agent.log"), m.program, m.args...)
	return err
}

// up tells whether it runs.
func (m *machine) up() bool {
	if m.Process == nil {
		return false
	}
	select {
	case <-m.Done():
		return false
	default:
		return true
	}
}

// ready waits until it is heard by its channel.
func (m *machine) ready(ctx context.Context) (is status.Status, err error) {
	asked := control.NewClient(m.dir)
	err = until(ctx, patience, "the agent is heard by its channel", func() (bool, error) {
		if is, err = asked.Status(ctx); err != nil {
			return false, err
		}
		want := map[v1alpha1.Channel]string{v1alpha1.ChannelWebSocket: "connected", v1alpha1.ChannelHeartbeat: "disabled"}[m.channel]
		return is.Heartbeat.Accepted && is.Websocket.State == want, nil
	})
	if err != nil {
		return is, fmt.Errorf("%w; its last words in %s:\n%s", err, m.Log, local.Tail(m.Log, 5))
	}
	return is, nil
}

// record is what its journal says of an action; nil: nothing.
func (m *machine) record(uid string) (*statev1.JournalRecord, error) { return state.Action(m.dir, uid) }

// forget takes an action out of its journal, as nothing but a fault does.
func (m *machine) forget(uid string) error { return os.Remove(filepath.Join(m.dir, "actions", uid)) }
