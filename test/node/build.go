//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/rollcall-dev/rollcall/hack/node"
)

// Images that the node has, under names that no registry has.
const (
	managerImage = "rollcall.local/rollcall-manager:test"
	gatewayImage = "rollcall.local/rollcall-gateway:test"
)

// programs are built for the node, static, as the Dockerfile builds them.
var programs = map[string]string{
	"rollcall-manager": "./cmd/manager",
	"rollcall-gateway": "./cmd/gateway",
	"rollcall-agent":   "./cmd/agent",
	"fleetsim":         "./cmd/fleetsim",
	"pause":            "./hack/node/pause",
}

type builder struct {
	root, dir string
	out       io.Writer
}

func (b builder) bin(name string) string { return filepath.Join(b.dir, "bin", name) }

// image is the archive of an image.
func image(dir, name string) string { return filepath.Join(dir, "images", name+".tar") }

func (b builder) build(ctx context.Context) error {
	if err := errors.Join(os.Mkdir(filepath.Join(b.dir, "bin"), 0o755), os.Mkdir(filepath.Join(b.dir, "images"), 0o755)); err != nil {
		return err
	}
	s := steps{b.out}
	if err := s.do("programs", func() (string, error) {
		for name, pkg := range programs {
			if err := b.command(ctx, []string{"CGO_ENABLED=0"}, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", b.bin(name), pkg); err != nil {
				return "", err
			}
		}
		return "built, static", node.PauseImage(b.bin("pause")).Write(image(b.dir, "pause"))
	}); err != nil {
		return err
	}
	return s.do("images", func() (string, error) { return b.pack() })
}

// pack makes the images of the programs alone.
func (b builder) pack() (string, error) {
	for program, name := range map[string]string{"rollcall-manager": managerImage, "rollcall-gateway": gatewayImage} {
		if err := (node.Image{Name: name, Program: b.bin(program)}).Write(image(b.dir, program)); err != nil {
			return "", err
		}
	}
	return "packed from the programs", nil
}

func (b builder) command(ctx context.Context, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = b.root, append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}
