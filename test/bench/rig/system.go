// Package rig starts what is measured: the shipped programs on a real control plane, each under its own account, and the servers that they
// are measured beside.
package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/test/harness"
)

// Tenant is the namespace of the fleet.
const Tenant = "fleet"

const (
	personName = "bench"
	tokenName  = "fleet"
)

// Build compiles everything that is run, as it is shipped but for the gateway's signals, into dir.
func Build(ctx context.Context, dir string) error {
	for _, p := range []struct {
		in, name string
		args     []string
	}{
		{Root(), "rollcall-manager", []string{"./cmd/manager"}},
		{Root(), "rollcall-gateway", []string{"-tags=bench", "./cmd/gateway"}},
		{Root(), "rollcall-agent", []string{"./cmd/agent"}},
		{Root(), "fleetsim", []string{"./cmd/fleetsim"}},
		{filepath.Join(Root(), "test", "bench"), "crowd", []string{"./crowd"}},
		{filepath.Join(Root(), "test", "bench"), "rawserver", []string{"./rawserver"}},
		{filepath.Join(Root(), "test", "bench"), "opampserver", []string{"./opampserver"}},
	} {
		cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-o", filepath.Join(dir, p.name)}, p.args...)...)
		cmd.Dir = p.in
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", p.name, err, out)
		}
	}
	return nil
}

// System is a control plane of its own with a manager.
type System struct {
	API     *harness.API
	Manager *local.Process
	Person  local.Person

	local   local.System
	dir     string
	counter int
}

// Start starts one with its state in dir and its logs and profiles in logs, with the binaries in bin. managerArgs are added to the manager's
// command line.
func Start(ctx context.Context, dir, logs, bin string, managerArgs ...string) (*System, error) {
	api, err := harness.Start(ctx, filepath.Join(dir, "cluster"))
	if err != nil {
		return nil, err
	}
	address, err := local.FreeAddress()
	if err != nil {
		return nil, err
	}
	s := &System{API: api, dir: dir, local: local.System{
		Admin: api.Admin, Bin: bin, Dir: filepath.Join(dir, "system"), LogDir: logs, GatewayAddress: address, ManagerArgs: managerArgs,
	}}
	if s.Manager, err = s.local.StartManager(ctx); err == nil {
		s.Person, err = local.CreatePerson(ctx, api.Admin, Tenant, personName, s.local.Dir, tokenName+"-token")
	}
	if err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// Stop ends all of it. Gateways are the caller's to stop.
func (s *System) Stop() {
	if s.Manager != nil {
		s.Manager.Stop(5 * time.Second)
	}
	_ = s.API.ControlPlane.Stop() // what was measured is measured
}

// RestartManager starts the manager again, after it has ended.
func (s *System) RestartManager(ctx context.Context) (err error) {
	s.Manager, err = s.local.StartManager(ctx)
	return err
}

// Log is the file of what a process printed.
func (s *System) Log(name string) string { return filepath.Join(s.local.LogDir, name+".log") }

// Apply applies a manifest as the person of the fleet's team.
func (s *System) Apply(ctx context.Context, manifest string) error {
	_, err := local.Kubectl(ctx, s.API.KubectlPath, s.Person.Kubeconfig, manifest, "apply", "-f", "-")
	return err
}

// Token makes an enrolment token as the person does, and returns a file with it.
func (s *System) Token(ctx context.Context) (string, error) {
	err := s.Apply(ctx, "apiVersion: rollcall.dev/v1alpha1\nkind: EnrollmentToken\nmetadata: {name: "+tokenName+"}\nspec: {expiresAfterHours: 0}\n")
	if err != nil {
		return "", err
	}
	var token string
	err = Poll(ctx, 30*time.Second, func() error {
		token, err = local.Kubectl(ctx, s.API.KubectlPath, s.Person.Kubeconfig, "", "get", "secret", tokenName+"-token", "-o", "go-template={{.data.token | base64decode}}")
		return err
	})
	if err != nil {
		return "", err
	}
	file := filepath.Join(s.dir, "token")
	return file, os.WriteFile(file, []byte(strings.TrimSpace(token)), 0o600)
}

// Fleetsim runs count agents with their state in dir, until it is stopped.
func (s *System) Fleetsim(token, dir string, count int, args ...string) (*local.Process, error) {
	command := s.fleetsim(token, dir, count, args)
	return local.Start("fleetsim", s.Log("fleetsim"), command[0], command[1:]...)
}

// HumbleFleetsim is Fleetsim that only gets the CPU time that nobody else wants.
func (s *System) HumbleFleetsim(token, dir string, count int, args ...string) (*local.Process, error) {
	command := humble(s.fleetsim(token, dir, count, args))
	return local.Start("fleetsim", s.Log("fleetsim"), command[0], command[1:]...)
}

func (s *System) fleetsim(token, dir string, count int, args []string) []string {
	return append([]string{
		filepath.Join(s.local.Bin, "fleetsim"), "--server=https://" + s.local.GatewayAddress, "--token-file=" + token, "--count=" + strconv.Itoa(count),
		"--state-dir=" + dir, "--enrolled-file=" + filepath.Join(dir, "enrolled"),
	}, args...)
}

// Enrolled waits until fleetsim has enrolled count agents. It gives up when no further one has enrolled for a minute.
func Enrolled(ctx context.Context, sim *local.Process, dir string, count int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stuck := time.AfterFunc(time.Minute, func() { cancel(errors.New("nobody has enrolled for a minute")) })
	defer stuck.Stop()
	enrolled := 0
	return sim.WaitFor(ctx, func(context.Context) error {
		b, err := os.ReadFile(filepath.Join(dir, "enrolled"))
		n, _ := strconv.Atoi(strings.TrimSpace(string(b))) // else none is known of
		if n > enrolled {
			enrolled = n
			stuck.Reset(time.Minute)
		}
		if n < count {
			err = fmt.Errorf("%d of %d agents have enrolled", n, count)
		}
		return err
	})
}

// Agent runs the real agent with its state in dir.
func (s *System) Agent(token, dir string, args ...string) (*local.Process, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return local.Start("agent", s.Log("agent"), filepath.Join(s.local.Bin, "rollcall-agent"), append([]string{
		"run", "--state-dir=" + dir, "--server=https://" + s.local.GatewayAddress, "--token-file=" + token,
	}, args...)...)
}

// oneMachine raises what a gateway grants one address: here all agents have the same.
var oneMachine = []string{"--enroll-rate-source=1000", "--enroll-rate-token=1000", "--enroll-rate-total=1000"}

// Unhurried lifts what keeps agents from beating and connecting as fast as they are answered, and lets those be silent that are not measured
// just now. What is written of sessions is written soon.
var Unhurried = []string{
	"--heartbeat-spacing=1us", "--heartbeat-burst=1000000", "--message-rate=1000000", "--message-burst=1000000", "--session-rate=100000",
	"--session-slack=1h", "--session-down-after=1s", "--write-rate=500",
}

// Gateway starts a gateway and waits until ready, which is asked with the text of its route /readyz and whether it answered 200.
func (s *System) Gateway(ctx context.Context, ready func(ok bool, text string) bool, args ...string) (*Gateway, error) {
	kubeconfig := filepath.Join(s.local.Dir, "gateway.kubeconfig")
	if err := local.WriteKubeconfig(kubeconfig, s.API.Admin, "", local.Namespace); err != nil {
		return nil, err
	}
	health, err := local.FreeAddress()
	if err != nil {
		return nil, err
	}
	s.counter++
	name := "gateway-" + strconv.Itoa(s.counter)
	g := &Gateway{Address: s.local.GatewayAddress, Health: health, Profiles: filepath.Join(s.local.LogDir, name), Binary: filepath.Join(s.local.Bin, "rollcall-gateway")}
	if err := os.MkdirAll(g.Profiles, 0o700); err != nil {
		return nil, err
	}
	env := []string{"ROLLCALL_BENCH_PROFILES=" + g.Profiles, gogc}
	if i := slices.Index(args, Sampled); i >= 0 {
		env, args = append(env, "GODEBUG=memprofilerate=4096"), slices.Delete(slices.Clone(args), i, i+1)
	}
	g.Process, err = local.StartEnv(name, s.Log(name), env, g.Binary, slices.Concat([]string{
		"--kubeconfig=" + kubeconfig, "--token-file=" + filepath.Join(s.local.Dir, "gateway.token"), "--namespace=" + local.Namespace,
		"--listen=" + g.Address, "--names=localhost,127.0.0.1", "--health-listen=" + health, "--artifact-store=" + s.local.Artifacts(),
	}, oneMachine, args)...)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	err = g.WaitFor(ctx, func(ctx context.Context) error {
		ok, text, err := g.ask(ctx, "/readyz")
		if err == nil && !ready(ok, text) {
			err = fmt.Errorf("%s", text)
		}
		return err
	})
	if err != nil {
		g.Kill()
		return nil, err
	}
	return g, nil
}

// Sampled among the arguments of Gateway is for a profile of the heap: one allocation in 4 KiB is remembered, not in 512. That costs memory.
const Sampled = "sampled"

// Ready is for Gateway: it serves agents.
func Ready(ok bool, _ string) bool { return ok }

// gogc is the same for all servers.
const gogc = "GOGC=100"

// Poll is local.Poll, which looks often.
func Poll(ctx context.Context, patience time.Duration, check func() error) error {
	return local.Poll(ctx, patience, 50*time.Millisecond, check)
}
