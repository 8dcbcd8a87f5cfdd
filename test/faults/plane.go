package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/test/audit"
	"github.com/rollcall-dev/rollcall/test/harness"
)

// reportMargin of the manager, in place of its 15 minutes.
const reportMargin = 5 * time.Second

// Timers are scaled: what is minutes in the field is seconds here.
var managerArgs = []string{
	"--leader-elect=false", "--report-margin=" + reportMargin.String(), "--beacon-interval=1s", "--gateway-lease-duration=3s", "--gateway-grace=3s",
	"--count-interval=1s", "--csr-retention=1s",
}

// plane is a control plane with a manager, for lanes to share.
type plane struct {
	// mortal: its API server dies in some runs, and in no others than those.
	mortal bool
	api    *harness.API
	admin  client.Client
	system local.System
	// managerFault is the manager's --fault-file. Whoever uses it has the turn.
	managerFault string
	turn         sync.Mutex
	manager      *local.Process
}

func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(s))
	utilruntime.Must(v1alpha1.AddToScheme(s))
	return s
}

func newClient(cfg *rest.Config) (client.Client, error) {
	cfg.QPS = -1
	return client.New(cfg, client.Options{Scheme: newScheme()})
}

// startPlane starts one with its state and logs below dir.
func startPlane(ctx context.Context, dir, bin string) (*plane, error) {
	p := &plane{managerFault: filepath.Join(dir, "manager.fault")}
	var err error
	if p.api, err = harness.Start(ctx, filepath.Join(dir, "cluster")); err != nil {
		return nil, err
	}
	if p.admin, err = newClient(p.api.Admin); err != nil {
		return p, err
	}
	somewhere, err := local.FreeAddress()
	if err != nil {
		return p, err
	}
	p.system = local.System{
		Admin: p.api.Admin, Bin: bin, Dir: filepath.Join(dir, "system"), LogDir: filepath.Join(dir, "log"), GatewayAddress: somewhere,
		ManagerArgs: append([]string{"--fault-file=" + p.managerFault}, managerArgs...),
	}
	return p, p.startManager(ctx)
}

func (p *plane) startManager(ctx context.Context) (err error) {
	p.manager, err = p.system.StartManager(ctx)
	return err
}

// stop ends everything. Its error says who wrote what he must not.
func (p *plane) stop() error {
	if p.manager != nil {
		p.manager.Kill()
	}
	_, violations, err := audit.Judge(p.api.AuditLog)
	err = errors.Join(err, p.api.Stop())
	if err == nil && len(violations) > 0 {
		err = fmt.Errorf("the audit log has writes by somebody who may not make them: %v", violations)
	}
	return err
}
