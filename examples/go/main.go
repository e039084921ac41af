// A voice worker in Go, with nothing but the standard library: it talks HTTP to the sidecar on this machine.
//
//	voice-worker -socket /run/recovery/sidecar.sock -name voice-1 call-1 call-2
//
// Each call is a simulated voice loop: a tick every 20 ms, a checkpoint every so often. When this process dies its calls are
// offered to other workers; what others lose is offered to this one. Started by `coordinator supervise` it needs no flags.
//
// It prints a line when it is in doubt, since its trust ran out or the sidecar said so, when it holds its calls again, and for
// each call that it lost.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"sync"
	"time"
)

const (
	tick    = 20 * time.Millisecond
	timeout = 10 * time.Second // for an answer; what waits for the store is answered before
)

// errFenced says that a call is somebody else's by now.
var errFenced = errors.New("fenced")

// Data is what it takes to go on with a call.
type Data struct {
	CallSID  string `json:"call_sid"`
	Sequence int64  `json:"sequence"`
}

// Event is a line of the stream, or a session as answers have it.
type Event struct {
	Event        string   `json:"event"`
	Session      string   `json:"session"`
	Sessions     []string `json:"sessions"`
	Epoch        int64    `json:"epoch"`
	Reason       string   `json:"reason"`
	Ping         int      `json:"ping"`
	TrustMS      int64    `json:"trust_ms"`
	RecoveryData Data     `json:"recovery_data"`
}

// Call is one live call.
type Call struct {
	id    string
	mu    sync.Mutex
	epoch int64
	data  Data
	over  context.CancelFunc
}

// Worker is this process as the sidecar knows it.
type Worker struct {
	http            *http.Client
	instance, token string
	every           time.Duration
	over            context.Context // done when this instance is over: nothing is its own any more
	end             context.CancelFunc

	mu      sync.Mutex
	calls   map[string]*Call
	trusted time.Time // until then nobody else can have adopted what this worker owns
	doubted bool      // the sidecar said so
}

func newWorker(socket string, every time.Duration) *Worker {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", socket)
	}
	transport := &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 32}
	w := &Worker{http: &http.Client{Transport: transport}, every: every, calls: map[string]*Call{}}
	w.over, w.end = context.WithCancel(context.Background())
	return w
}

// ask makes one request; the answer's body goes into out, unless that is nil. From the sending on, what is this worker's stays
// its own for as long as the answer says.
func (w *Worker) ask(method, path string, epoch int64, body, out any) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	asked := time.Now()
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return 0, err
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://sidecar"+path, content)
	if err != nil {
		return 0, err
	}
	if w.token != "" {
		request.Header.Set("Worker-Token", w.token)
	}
	if epoch != 0 {
		request.Header.Set("If-Match", strconv.Quote(strconv.FormatInt(epoch, 10)))
	}
	answer, err := w.http.Do(request)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	if left, err := strconv.ParseInt(answer.Header.Get("Trust-Ms"), 10, 64); err == nil {
		w.trust(asked, left)
	}
	text, err := io.ReadAll(answer.Body)
	if err == nil && out != nil && answer.StatusCode < 300 && len(text) > 0 {
		err = json.Unmarshal(text, out)
	}
	return answer.StatusCode, err
}

func sessionPath(id, what string) string { return "/v1/sessions/" + url.PathEscape(id) + what }

// register makes this process known under its name.
func (w *Worker) register(name, pool string, capacity int) error {
	var known struct {
		Instance string `json:"instance"`
		Token    string `json:"worker_token"`
	}
	asked := map[string]any{"name": name, "pool": pool, "capacity": capacity}
	status, err := w.ask("POST", "/v1/workers", 0, asked, &known)
	if err == nil && status != http.StatusCreated {
		err = fmt.Errorf("the sidecar answered %d to the registration of %s", status, name)
	}
	w.instance, w.token = known.Instance, known.Token
	return err
}

// open begins a call.
func (w *Worker) open(id string) error {
	var opened Event
	data := Data{CallSID: id}
	status, err := w.ask("PUT", sessionPath(id, ""), 0, map[string]any{"recovery_data": data}, &opened)
	if err == nil && status >= 300 {
		err = fmt.Errorf("the sidecar answered %d to the opening of %s", status, id)
	}
	if err == nil {
		w.serve(id, opened.Epoch, opened.RecoveryData)
		tell("opened", map[string]any{"session": id, "epoch": opened.Epoch})
	}
	return err
}

// adopt takes over a call that was offered.
func (w *Worker) adopt(id string) {
	var adopted Event
	status, err := w.ask("POST", sessionPath(id, "/adopt"), 0, nil, &adopted)
	if err != nil || status != http.StatusOK {
		return // another was quicker
	}
	w.serve(id, adopted.Epoch, adopted.RecoveryData)
	_, _ = w.ask("POST", sessionPath(id, "/resumed"), adopted.Epoch, nil, nil) // here media would be attached again
	tell("adopted", map[string]any{
		"session": id, "epoch": adopted.Epoch, "sequence": adopted.RecoveryData.Sequence, "data": adopted.RecoveryData,
	})
}

// serve runs the voice loop of a call, unless it runs already.
func (w *Worker) serve(id string, epoch int64, data Data) {
	ctx, over := context.WithCancel(w.over)
	call := &Call{id: id, epoch: epoch, data: data, over: over}
	w.mu.Lock()
	defer w.mu.Unlock()
	if before := w.calls[id]; before != nil {
		before.mu.Lock()
		same := before.epoch == epoch
		before.mu.Unlock()
		if same {
			over()
			return
		}
		before.over()
	}
	if w.over.Err() != nil {
		over()
		return
	}
	w.calls[id] = call
	go every(ctx, tick, func() {
		call.mu.Lock()
		call.data.Sequence++ // here a frame of audio would be sent
		call.mu.Unlock()
	})
	go every(ctx, w.every, func() { // not in the voice loop: the sidecar may take its time
		if errors.Is(w.checkpoint(call), errFenced) && ctx.Err() == nil {
			w.lose(id, "its checkpoint was refused")
		}
	})
}

// every does something again and again until ctx is done.
func every(ctx context.Context, interval time.Duration, do func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			do()
		}
	}
}

func (w *Worker) checkpoint(call *Call) error {
	call.mu.Lock()
	epoch, data := call.epoch, call.data
	call.mu.Unlock()
	body := map[string]any{"recovery_data": data, "sequence": data.Sequence}
	status, err := w.ask("PUT", sessionPath(call.id, "/checkpoint"), epoch, body, nil)
	if err == nil && (status == http.StatusPreconditionFailed || status == http.StatusGone) {
		return errFenced
	}
	return err // when the store is away the next checkpoint says the same and more
}

// lose stops a call's media: somebody else speaks.
func (w *Worker) lose(id, reason string) {
	w.mu.Lock()
	call := w.calls[id]
	delete(w.calls, id)
	w.mu.Unlock()
	if call != nil {
		call.over()
		tell("lost", map[string]any{"session": id, "reason": reason})
	}
}

// compare takes up what the sidecar says is this worker's, and stops what is not: after each attachment they must agree.
func (w *Worker) compare() {
	var owned struct {
		Sessions []Event `json:"sessions"`
	}
	w.mu.Lock()
	unknown := map[string]bool{}
	for id := range w.calls {
		unknown[id] = true
	}
	w.mu.Unlock()
	status, err := w.ask("GET", "/v1/workers/"+w.instance+"/sessions", 0, nil, &owned)
	if err != nil || status != http.StatusOK {
		return
	}
	for _, session := range owned.Sessions {
		delete(unknown, session.Session)
		w.serve(session.Session, session.Epoch, session.RecoveryData)
	}
	for id := range unknown {
		w.lose(id, "the sidecar does not know it as this worker's")
	}
}

// loseAll stops everything: this instance is over, and others have its calls or will.
func (w *Worker) loseAll(reason string) {
	w.mu.Lock()
	w.end()
	w.trusted = time.Time{}
	var ids []string
	for id := range w.calls {
		ids = append(ids, id)
	}
	w.mu.Unlock()
	for _, id := range ids {
		w.lose(id, reason)
	}
}

// trust notes for how long nobody else can have adopted what this worker owns. It counts from the asking, not from when the
// answer is read: this process may have stood still in between.
func (w *Worker) trust(asked time.Time, milliseconds int64) {
	until := asked.Add(time.Duration(milliseconds) * time.Millisecond)
	w.mu.Lock()
	defer w.mu.Unlock()
	if until.After(w.trusted) && w.over.Err() == nil {
		w.trusted = until
	}
}

// held says whether nobody else can have adopted what this worker owns: to be asked before what cannot be undone.
func (w *Worker) held() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	// by both clocks, since one of them stands still while the machine sleeps
	return !w.doubted && now.Before(w.trusted) && now.Round(0).Before(w.trusted.Round(0))
}

// watch prints when this worker is in doubt, and when it is not any more.
func (w *Worker) watch() {
	before := false
	every(w.over, tick, func() {
		held := w.held()
		if held == before {
			return
		}
		before = held
		if held {
			tell("held", w.standing())
		} else {
			tell("in_doubt", w.standing())
		}
	})
}

func (w *Worker) standing() map[string]any {
	w.mu.Lock()
	defer w.mu.Unlock()
	return map[string]any{"calls": len(w.calls), "trusted_until_ms": w.trusted.UnixMilli()}
}

// alive answers a ping; again is called when the sidecar does not know this worker, which may attach again then.
func (w *Worker) alive(ping int, again func()) {
	status, _ := w.ask("POST", "/v1/workers/"+w.instance+"/alive", 0, map[string]any{"ping": ping}, nil)
	switch status {
	case http.StatusGone:
		w.loseAll("this instance is over")
		again()
	case http.StatusNotFound:
		again()
	}
}

// events reads the stream until it ends.
func (w *Worker) events() {
	ctx, again := context.WithCancel(w.over)
	defer again()
	request, err := http.NewRequestWithContext(ctx, "GET", "http://sidecar/v1/workers/"+w.instance+"/events", nil)
	if err != nil {
		w.loseAll(err.Error())
		return
	}
	request.Header.Set("Worker-Token", w.token)
	asked := time.Now()
	answer, err := w.http.Do(request)
	if err != nil {
		return // the sidecar may come back
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusGone || answer.StatusCode == http.StatusNotFound {
		var problem struct {
			Detail string `json:"detail"`
		}
		_ = json.NewDecoder(answer.Body).Decode(&problem)
		w.loseAll(problem.Detail)
		return
	}
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var event Event
		if json.Unmarshal(lines.Bytes(), &event) != nil {
			continue
		}
		switch event.Event {
		case "hello":
			w.trust(asked, event.TrustMS)
			tell("attached", map[string]any{"instance": w.instance, "sessions": event.Sessions})
			go w.compare()
		case "ping":
			go w.alive(event.Ping, again)
		case "offer":
			go w.adopt(event.Session)
		case "lost":
			w.lose(event.Session, event.Reason)
		case "renewed":
			w.mu.Lock()
			call := w.calls[event.Session]
			w.mu.Unlock()
			if call != nil {
				call.mu.Lock()
				call.epoch = event.Epoch
				call.mu.Unlock()
			}
		case "held", "in_doubt":
			w.mu.Lock()
			w.doubted = event.Event == "in_doubt"
			w.mu.Unlock()
		case "drain", "joined":
			tell(event.Event, map[string]any{"held": w.held()})
		case "overflow":
			go w.compare()
		case "ended":
			w.loseAll(event.Reason)
			return
		}
	}
	tell("detached", w.standing())
}

var output sync.Mutex

func tell(what string, fields map[string]any) {
	fields["what"] = what
	text, _ := json.Marshal(fields)
	output.Lock()
	defer output.Unlock()
	fmt.Println(string(text))
}

func main() {
	socket := flag.String("socket", os.Getenv("RECOVERY_SOCKET"), "unix socket of the sidecar")
	name := flag.String("name", "go-worker", "stable name of this worker")
	pool := flag.String("pool", "default", "whose offers it takes")
	capacity := flag.Int("capacity", 1000, "calls that it takes by offers")
	every := flag.Duration("checkpoint", time.Second, "between two checkpoints of a call")
	flag.Parse()

	worker := newWorker(*socket, *every)
	worker.instance, worker.token = os.Getenv("RECOVERY_INSTANCE"), os.Getenv("RECOVERY_WORKER_TOKEN")
	if worker.instance == "" {
		if err := worker.register(*name, *pool, *capacity); err != nil {
			fmt.Fprintln(os.Stderr, "voice-worker:", err)
			os.Exit(1)
		}
	}
	go func() {
		for _, id := range flag.Args() {
			if err := worker.open(id); err != nil {
				fmt.Fprintln(os.Stderr, "voice-worker:", err)
				os.Exit(1)
			}
		}
		tell("ready", map[string]any{"instance": worker.instance, "pid": os.Getpid()})
	}()
	go worker.watch()
	for worker.over.Err() == nil {
		worker.events()
		time.Sleep(tick) // the stream ended: attach again
	}
	tell("over", map[string]any{"instance": worker.instance})
}
