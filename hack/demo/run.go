package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/rollcall-dev/rollcall/hack/controlplane"
	"github.com/rollcall-dev/rollcall/hack/local"
)

// demoObjects are what the person applies: a policy that beats and pings often, so that a person who looks sees something move.
const demoObjects = `
apiVersion: rollcall.dev/v1alpha1
kind: EndpointPolicy
metadata: {name: demo}
spec: {heartbeat: {intervalSeconds: 15}, commandChannel: {mode: WebSocket, pingIntervalSeconds: 15}}
---
apiVersion: rollcall.dev/v1alpha1
kind: EnrollmentToken
metadata: {name: ` + tokenName + `}
spec: {expiresAfterHours: 0}
`

// run starts everything in order, says when it is ready, and keeps it running until ctx ends.
func (d *demo) run(ctx context.Context) (err error) {
	release, err := d.claim()
	if err != nil {
		return err
	}
	defer release()
	began := time.Now()
	keeper := newKeeper(d.say)
	stopControlPlane := func() error { return nil }
	defer func() {
		agents := keeper.stop()
		if stopErr := stopControlPlane(); err == nil {
			err = stopErr
		}
		if ctx.Err() != nil {
			err = nil
			d.say("stopped %d agents, gateway, manager%s; state kept in .run/", agents, map[bool]string{true: ", control plane"}[d.kubeconfig == ""])
		}
	}()

	if stopControlPlane, err = d.startCluster(ctx); err != nil {
		return err
	}
	sys := local.System{
		Admin: d.admin, Bin: d.bin, Dir: d.in("system"), LogDir: d.in("log"), GatewayAddress: d.address(), ManagerArgs: demoPace, GatewayArgs: oneMachine,
	}
	if sys.GatewayListen, err = local.FreeAddress(); err != nil {
		return err
	}
	endpoint := ""
	steps := []struct {
		name string
		do   func() (string, error)
	}{
		{"config/cluster", func() (string, error) { return d.install(ctx) }},
		{"manager", func() (string, error) { return d.manager(ctx, keeper, sys) }},
		{"gateway", func() (string, error) { return d.gateway(ctx, keeper, sys) }},
		{"agent", func() (_ string, err error) {
			endpoint, err = d.agent(ctx, keeper)
			return "on this machine: enrolled as endpoint " + tenant + "/" + endpoint + ", online", err
		}},
		{"content", func() (string, error) { return d.content(ctx, endpoint) }},
		{"action", func() (string, error) { return d.action(ctx, endpoint) }},
	}
	for _, s := range steps {
		if err := d.step(s.name, s.do); err != nil {
			return err
		}
	}
	if err := d.links(); err != nil {
		return err
	}
	d.say("Ready in %.1fs.\n", time.Since(began).Seconds())
	d.say("%s", hints)
	go refreshTokens(ctx, sys, d.say)
	go keeper.watchSims(ctx, d)
	return keeper.wait(ctx)
}

const hints = `  eval "$(make env)"      kubectl and cytool on PATH, context 'rollcall', namespace 'fleet'
  kubectl get rollcall    everything           make agents N=50    fifty more agents
  cytool websocket        the endpoint's view  make block          break websockets, keep HTTPS (make unblock)
  make stop               stop, keep state     make clean          forget everything
Logs: .run/log/*.log.  The demo's policy beats every 15 s (the default is 5 minutes).  Ctrl-C stops all of it.`

// demoPace counts endpoints as soon as a person looks again.
var demoPace = []string{"--count-interval=2s", "--release-count-interval=2s"}

// oneMachine raises what a gateway grants one address, because here all agents have the same.
var oneMachine = []string{"--enroll-rate-source=100", "--enroll-rate-token=100", "--enroll-rate-total=100"}

// startCluster brings up the control plane, or finds the person's own, and returns what stops it.
func (d *demo) startCluster(ctx context.Context) (func() error, error) {
	nothing := func() error { return nil }
	opts := controlplane.Options{Out: d.out, Hint: "Have a cluster? Ctrl-C, then: make run KUBECONFIG=~/.kube/config"}
	version, cached, err := controlplane.Cached(opts)
	if err != nil {
		return nothing, err
	}
	// kubectl comes from there even where the cluster is somebody else's
	assets, err := controlplane.Ensure(ctx, opts)
	if err != nil {
		return nothing, err
	}
	d.kubectl = filepath.Join(assets, "kubectl")
	if d.kubeconfig != "" {
		d.say("rollcall  the cluster of %s", d.kubeconfig)
		if d.admin, err = clientcmd.BuildConfigFromFlags("", d.kubeconfig); err != nil {
			return nothing, fmt.Errorf("use %s: %w", d.kubeconfig, err)
		}
		return nothing, d.build(ctx)
	}
	if cached {
		d.say("rollcall  Kubernetes v%s, cached", version)
	}
	if err := d.build(ctx); err != nil {
		return nothing, err
	}
	stop := nothing
	err = d.step("control plane", func() (string, error) {
		cp, err := controlplane.Start(ctx, controlplane.Config{AssetsDir: assets, StateDir: d.in("cluster"), LogDir: d.in("log")})
		if err != nil {
			return "", err
		}
		stop = cp.Stop
		d.admin = cp.AdminConfig()
		return d.admin.Host, controlplane.WriteKubeconfig(d.adminKubeconfig(), "rollcall-admin", "default", d.admin)
	})
	return stop, err
}

func (d *demo) adminKubeconfig() string {
	if d.kubeconfig != "" {
		return d.kubeconfig
	}
	return d.in("admin.kubeconfig")
}

// build compiles the programs, unless they are given; with a warm cache that is a second or two.
func (d *demo) build(ctx context.Context) error {
	if d.bin != "" {
		return nil
	}
	d.bin = filepath.Join(d.root, "bin")
	slow := time.AfterFunc(3*time.Second, func() { d.say("  programs  building them; minutes, the first time") })
	defer slow.Stop()
	return d.step("programs", func() (string, error) {
		cmd := exec.CommandContext(ctx, "make", "--no-print-directory", "build")
		cmd.Dir = d.root
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("make build: %w\n%s", err, out)
		}
		return "built into bin/", nil
	})
}

// install applies what is shipped as the cluster's administrator, and makes the person who does all the rest.
func (d *demo) install(ctx context.Context) (string, error) {
	n, err := local.Install(ctx, d.kubectl, d.adminKubeconfig(), d.admin, d.root)
	if err != nil {
		return "", err
	}
	stamped, err := local.Stamp(ctx, d.kubectl, d.adminKubeconfig(), d.admin, d.root)
	if err != nil {
		return "", err
	}
	if stamped {
		n.Policies++
	}
	if err := errors.Join(d.believe(ctx), d.openPerson(ctx)); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d kinds, %d service accounts, %d policies", n.Kinds, n.Accounts, n.Policies), nil
}

func (d *demo) openPerson(ctx context.Context) (err error) {
	d.person, err = local.CreatePerson(ctx, d.admin, tenant, personName, d.in("system"), local.AnySecret)
	return err
}

func (d *demo) manager(ctx context.Context, k *keeper, sys local.System) (string, error) {
	err := k.keep(ctx, "manager", sys.StartManager)
	return "as " + local.Namespace + "/" + local.ManagerAccount + ": leader; fleet keys made", err
}

// gateway starts it, and what stands between it and the agents: d.address() is where they dial.
func (d *demo) gateway(ctx context.Context, k *keeper, sys local.System) (string, error) {
	if err := portFree(d.address()); err != nil {
		return "", err
	}
	err := k.keep(ctx, "gateway", sys.StartGateway)
	if err == nil {
		err = d.relay(ctx, k, sys.GatewayListen)
	}
	return fmt.Sprintf("as %s/%s: %s, TLS 1.2 only", local.Namespace, local.GatewayAccount, d.address()), err
}

func portFree(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("%s is taken by another program: stop that, or: make run GATEWAY_PORT=9443 (%w)", address, err)
	}
	return l.Close()
}

// agent enrols this machine with the person's token and waits until the API shows it online.
func (d *demo) agent(ctx context.Context, k *keeper) (string, error) {
	if _, err := local.Kubectl(ctx, d.kubectl, d.person.Kubeconfig, demoObjects, "apply", "-f", "-"); err != nil {
		return "", err
	}
	if err := d.writeToken(ctx); err != nil {
		return "", err
	}
	dir := d.in("agent")
	if err := d.forgetDeleted(ctx, dir); err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	err := k.keep(ctx, "agent", func(context.Context) (*local.Process, error) {
		return local.Start("agent", d.in("log", "agent.log"), filepath.Join(d.bin, "rollcall-agent"), "run",
			"--state-dir="+dir, "--server=https://"+d.address(), "--token-file="+d.in("token"))
	})
	if err != nil {
		return "", err
	}
	return d.awaitOnline(ctx, certificateIn(dir))
}

// writeToken reads the token's Secret as the person and puts it where agents find it.
func (d *demo) writeToken(ctx context.Context) error {
	var token string
	err := local.Poll(ctx, 30*time.Second, often, func() error {
		out, err := local.Kubectl(ctx, d.kubectl, d.person.Kubeconfig, "", "get", "secret", tokenName+"-token", "-o", "go-template={{.data.token | base64decode}}")
		token = strings.TrimSpace(out)
		return err
	})
	if err != nil {
		return err
	}
	return os.WriteFile(d.in("token"), []byte(token), 0o600)
}

// forgetDeleted takes away the state of an agent whose Endpoint people have deleted, so that it enrols again.
func (d *demo) forgetDeleted(ctx context.Context, dir string) error {
	id, err := identityOf(certificateIn(dir))
	if err != nil {
		return nil //nolint:nilerr // it has not enrolled
	}
	name, _, err := d.shown(ctx, id)
	if err != nil || name != "" {
		return err
	}
	d.say("  its Endpoint was deleted: the agent on this machine enrols again")
	return os.RemoveAll(dir)
}

func certificateIn(dir string) string { return filepath.Join(dir, "identity", "agent.crt") }

// shown is what people see of the Endpoint with an identity; empty if there is none.
func (d *demo) shown(ctx context.Context, id string) (name, summary string, err error) {
	out, err := local.Kubectl(ctx, d.kubectl, d.person.Kubeconfig, "", "get", "fep", "-o",
		fmt.Sprintf(`jsonpath={.items[?(@.status.identity.id=="%s")]['metadata.name','status.summary']}`, id))
	name, summary, _ = strings.Cut(out, " ")
	return name, summary, err
}

// awaitOnline finds the endpoint of a certificate and waits until people see it online.
func (d *demo) awaitOnline(ctx context.Context, certificate string) (name string, err error) {
	err = local.Poll(ctx, time.Minute, often, func() error {
		id, err := identityOf(certificate)
		if err != nil {
			return err
		}
		var summary string
		if name, summary, err = d.shown(ctx, id); err == nil && summary != "Online" {
			err = fmt.Errorf("endpoint %s/%s is not online yet but %q; the agent's last words in %s:\n%s",
				tenant, name, summary, d.in("log", "agent.log"), local.Tail(d.in("log", "agent.log"), 3))
		}
		return err
	})
	return name, err
}

// refreshTokens keeps the manager's token fresh for as long as the demo runs; the gateway's is the manager's to mint.
func refreshTokens(ctx context.Context, sys local.System, say func(string, ...any)) {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := sys.RefreshManagerToken(ctx); err != nil {
				say("  %s", err)
			}
		}
	}
}
