package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/internal/identity"
)

// simOrder asks the running demo for simulated agents. It stays in .run/sim-*/order.json, so that the next `make run` goes on with them.
type simOrder struct {
	Count  int    `json:"count"`
	Prefix string `json:"prefix"`
}

const orderFile = "order.json"

// agents asks for n more and waits until people see them.
func (d *demo) agents(ctx context.Context, n int) error {
	if n < 1 || n > 10000 {
		return fmt.Errorf("make agents N=%d: N is between 1 and 10000", n)
	}
	if _, running := d.running(); !running {
		return errors.New("nothing runs here: make run first, in another terminal")
	}
	existing, err := filepath.Glob(d.in("sim-*"))
	if err != nil {
		return err
	}
	number := len(existing) + 1
	order := simOrder{Count: n, Prefix: "agent"}
	if number > 1 {
		order.Prefix = fmt.Sprintf("agent%d", number)
	}
	dir := d.in(fmt.Sprintf("sim-%d", number))
	if err := writeOrder(dir, order); err != nil {
		return err
	}
	began := time.Now()
	online := 0
	err = local.Poll(ctx, time.Minute+time.Duration(n)*100*time.Millisecond, often, func() error {
		states, err := os.ReadFile(filepath.Join(dir, "enrolled"))
		if err == nil {
			_, err = fmt.Sscan(string(states), &online)
		}
		if err != nil || online < n {
			return fmt.Errorf("%d of %d agents have enrolled; log: .run/log/%s.log", online, n, filepath.Base(dir))
		}
		return nil
	})
	if err != nil {
		return err
	}
	d.say("%d agents enrolled in %.1fs: kubectl get fep", n, time.Since(began).Seconds())
	return nil
}

func writeOrder(dir string, order simOrder) error {
	b, err := json.Marshal(order)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	temporary := filepath.Join(dir, orderFile+".new")
	if err := os.WriteFile(temporary, b, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, filepath.Join(dir, orderFile))
}

// watchSims starts a simulator for each order that it finds in .run/, those of earlier runs included.
func (k *keeper) watchSims(ctx context.Context, d *demo) {
	started := map[string]bool{}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		orders, _ := filepath.Glob(d.in("sim-*", orderFile))
		for _, file := range orders {
			if !started[file] {
				started[file] = true
				if err := k.startSim(ctx, d, file); err != nil {
					k.say("  simulated agents of %s: %v", file, err)
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (k *keeper) startSim(ctx context.Context, d *demo, file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var order simOrder
	if err := json.Unmarshal(b, &order); err != nil {
		return err
	}
	dir := filepath.Dir(file)
	name := filepath.Base(dir)
	k.addAgents(order.Count)
	return k.keep(ctx, name, func(context.Context) (*local.Process, error) {
		return local.Start(name, d.in("log", name+".log"), filepath.Join(d.bin, "fleetsim"),
			"--server=https://"+d.address(), "--token-file="+d.in("token"), fmt.Sprintf("--count=%d", order.Count),
			"--prefix="+order.Prefix, "--state-dir="+filepath.Join(dir, "state"), "--enrolled-file="+filepath.Join(dir, "enrolled"), "--odd")
	})
}

// identityOf reads the identity's ID from an agent's certificate.
func identityOf(certificate string) (string, error) {
	b, err := os.ReadFile(certificate)
	if err != nil {
		return "", fmt.Errorf("the agent has not enrolled: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return "", fmt.Errorf("%s is no certificate", certificate)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", fmt.Errorf("%s: %w", certificate, err)
	}
	_, id, err := identity.ParseURI(cert)
	return id, err
}
