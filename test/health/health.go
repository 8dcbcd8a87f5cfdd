// Package health asks of an object what Flux and Argo CD would say, with the scripts and expressions that are shipped for them in config/health,
// run by the engines that they use: cel-go and gopher-lua.
package health

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"cel.dev/cel-go/cel"
	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// patience is how long a script may take.
const patience = time.Second

// Verdicts on one object, in kstatus' words: Argo CD's Healthy is Current, its Progressing InProgress, its Degraded Failed.
type Verdicts struct{ KStatus, Flux, Argo status.Status }

// Agree tells whether all are the same.
func (v Verdicts) Agree() bool { return v.KStatus == v.Flux && v.KStatus == v.Argo }

// Of is what all three say. root is the repository.
func Of(ctx context.Context, root string, o *unstructured.Unstructured) (v Verdicts, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	k, err := status.Compute(o)
	if err != nil {
		return v, fmt.Errorf("ask kstatus: %w", err)
	}
	v.KStatus = k.Status
	if v.Argo, err = argo(ctx, filepath.Join(root, "config/health/argocd/health.lua"), o); err != nil {
		return v, err
	}
	v.Flux, err = flux(ctx, filepath.Join(root, "config/health/flux/healthcheckexprs.yaml"), o)
	return v, err
}

var argoWords = map[string]status.Status{"Healthy": status.CurrentStatus, "Progressing": status.InProgressStatus, "Degraded": status.FailedStatus}

// argo runs a script as Argo CD does: without libraries but the safe ones, the object in the global obj, the verdict a table.
func argo(ctx context.Context, file string, o *unstructured.Unstructured) (status.Status, error) {
	script, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	l := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer l.Close()
	l.SetContext(ctx)
	for name, open := range map[string]lua.LGFunction{lua.LoadLibName: lua.OpenPackage, lua.BaseLibName: lua.OpenBase, lua.TabLibName: lua.OpenTable} {
		if err := l.CallByParam(lua.P{Fn: l.NewFunction(open), Protect: true}, lua.LString(name)); err != nil {
			return "", fmt.Errorf("run %s: %w", file, err)
		}
	}
	l.SetGlobal("obj", toLua(l, o.Object))
	if err := l.DoString(string(script)); err != nil {
		return "", fmt.Errorf("run %s: %w", file, err)
	}
	table, ok := l.Get(-1).(*lua.LTable)
	if !ok {
		return "", fmt.Errorf("%s returned no table", file)
	}
	word, known := argoWords[lua.LVAsString(table.RawGetString("status"))]
	if !known {
		return "", fmt.Errorf("%s returned the status %q", file, table.RawGetString("status"))
	}
	return word, nil
}

func toLua(l *lua.LState, v any) lua.LValue {
	switch v := v.(type) {
	case map[string]any:
		t := l.NewTable()
		for _, k := range slices.Sorted(maps.Keys(v)) {
			t.RawSetString(k, toLua(l, v[k]))
		}
		return t
	case []any:
		t := l.NewTable()
		for _, e := range v {
			t.Append(toLua(l, e))
		}
		return t
	case string:
		return lua.LString(v)
	case int64:
		return lua.LNumber(v)
	case float64:
		return lua.LNumber(v)
	case bool:
		return lua.LBool(v)
	default:
		return lua.LNil
	}
}

// healthChecks are spec.healthCheckExprs of Flux's Kustomization.
type healthChecks struct {
	HealthCheckExprs []struct{ APIVersion, Kind, InProgress, Failed, Current string }
}

// flux evaluates the expressions for the object's kind in Flux's order.
func flux(ctx context.Context, file string, o *unstructured.Unstructured) (status.Status, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	var checks healthChecks
	if err := yaml.UnmarshalStrict(text, &checks); err != nil {
		return "", fmt.Errorf("read %s: %w", file, err)
	}
	for _, c := range checks.HealthCheckExprs {
		if c.APIVersion != o.GetAPIVersion() || c.Kind != o.GetKind() {
			continue
		}
		for _, e := range []struct {
			text string
			then status.Status
		}{{c.InProgress, status.InProgressStatus}, {c.Failed, status.FailedStatus}, {c.Current, status.CurrentStatus}} {
			holds, err := evaluate(ctx, e.text, o.Object)
			if err != nil {
				return "", fmt.Errorf("evaluate %q of %s: %w", e.text, file, err)
			}
			if holds {
				return e.then, nil
			}
		}
		return status.InProgressStatus, nil
	}
	return "", fmt.Errorf("%s has no expressions for %s", file, o.GetKind())
}

func evaluate(ctx context.Context, expression string, object map[string]any) (bool, error) {
	var variables []cel.EnvOption
	for _, name := range []string{"metadata", "spec", "status"} {
		variables = append(variables, cel.Variable(name, cel.DynType))
	}
	env, err := cel.NewEnv(variables...)
	if err != nil {
		return false, err
	}
	ast, issues := env.Compile(expression)
	if issues.Err() != nil {
		return false, issues.Err()
	}
	program, err := env.Program(ast, cel.InterruptCheckFrequency(100))
	if err != nil {
		return false, err
	}
	out, _, err := program.ContextEval(ctx, object)
	if err != nil {
		return false, err
	}
	holds, ok := out.Value().(bool)
	if !ok {
		return false, errors.New("it is no bool")
	}
	return holds, nil
}
