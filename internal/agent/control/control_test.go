package control

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/rollcall-dev/rollcall/internal/agent/status"
)

// askEnv makes the test binary a client, for a test that needs one of another user.
const askEnv = "ROLLCALL_CONTROL_TEST_ASK"

func TestMain(m *testing.M) {
	if dir := os.Getenv(askEnv); dir != "" {
		_, err := NewClient(dir).Status(context.Background())
		_, _ = fmt.Println(err) //nolint:forbidigo // the answer of the child process
		return
	}
	goleak.VerifyTestMain(m)
}

type agent struct{ asked int }

func (a *agent) Status() status.Status {
	return status.Status{State: "Online", Server: status.Server{URL: fmt.Sprint(a.asked)}}
}
func (a *agent) Checkin(context.Context) error { a.asked++; return nil }
func (a *agent) Actions() (status.Actions, error) {
	if a.asked > 0 {
		return status.Actions{}, errors.New("the disk is broken")
	}
	return status.Actions{Actions: []status.Action{{UID: "x"}}}, nil
}

// serve starts an agent in a short path: a socket's may have 107 bytes.
func serve(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rc") //nolint:usetesting // that one is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan struct{})
	go func() { defer close(served); Serve(ctx, l, &agent{}) }()
	t.Cleanup(func() { cancel(); <-served; _ = os.RemoveAll(dir) })
	return dir
}

func TestAsk(t *testing.T) {
	dir := serve(t)
	c := NewClient(dir)
	if s, err := c.Status(t.Context()); err != nil || s.State != "Online" || s.Server.URL != "0" {
		t.Errorf("%+v, %v", s, err)
	}
	if a, err := c.Actions(t.Context()); err != nil || len(a.Actions) != 1 || a.Actions[0].UID != "x" {
		t.Errorf("%+v, %v", a, err)
	}
	if s, err := c.Checkin(t.Context()); err != nil || s.Server.URL != "1" {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := c.Actions(t.Context()); err == nil || err.Error() != "the disk is broken" {
		t.Error(err)
	}
	info, err := os.Stat(SocketPath(dir))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket has %v, %v", info.Mode(), err)
	}
}

func TestNotRunning(t *testing.T) {
	dir := t.TempDir()
	if _, err := NewClient(dir).Status(t.Context()); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), dir) {
		t.Error(err)
	}
	if _, err := NewClient(filepath.Join(dir, "no such")).Status(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Error(err)
	}
}

func TestSocketIsReplaced(t *testing.T) {
	dir, err := os.MkdirTemp("", "rc") //nolint:usetesting // that one is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.WriteFile(SocketPath(dir), nil, 0o600); err != nil { // as kill -9 leaves one
		t.Fatal(err)
	}
	l, err := Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if _, err := Listen(filepath.Join(dir, strings.Repeat("x", 120))); err == nil || !strings.Contains(err.Error(), "107 bytes") {
		t.Errorf("a path that is too long: %v", err)
	}
}
