package controllers_test

import (
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/local"
)

// TestManagerWithoutAPIServer: it waits for the API server at its start, and does not wait for it at its end.
func TestManagerWithoutAPIServer(t *testing.T) {
	setup(t)
	c, s := admin(t), system(t, "--leader-lease-duration=30s", "--leader-renew-deadline=20s") // it leads until the end
	leading, err := s.StartManager(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, leading) })
	cp := world.api.ControlPlane
	if err := cp.KillAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := leading.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-leading.Done()
	if took := time.Since(began); took > 2200*time.Millisecond || leading.Err() != nil {
		t.Errorf("it took %s to end, with %v; the gateway beside it needs that time", took, leading.Err())
	}

	early, err := local.Start("manager", filepath.Join(s.LogDir, "early.log"), filepath.Join(s.Bin, "rollcall-manager"), append([]string{
		"--kubeconfig=" + filepath.Join(s.Dir, "manager.kubeconfig"), "--gateway-names=localhost", "--health-listen=", "--metrics-listen=",
	}, append(timers, "--leader-elect=false")...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, early) })
	tailWith(t, early, "The manager waits for the API server.")
	if err := cp.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	newToken(t, c, world.api.Namespace(t), "after", v1alpha1.EnrollmentTokenSpec{})
}
