package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"
)

const (
	answerIn  = 5 * time.Second // for an answer; what waits for the store is answered before
	aliveIn   = 2 * time.Second // the same for the answer to a ping: the next one must not wait
	silence   = 5 * time.Second // pings come several times a second: a stream without any for so long is dead
	mostPause = 5 * time.Second // whatever Retry-After says
)

// Session is a call as answers have it.
type Session struct {
	Session       string          `json:"session"`
	Epoch         int64           `json:"epoch"`
	MaySpeak      *bool           `json:"may_speak"`
	Recovered     bool            `json:"recovered"`
	Planned       bool            `json:"planned"`
	DataAgeMS     int64           `json:"data_age_ms"` // at its adoption
	PreviousOwner string          `json:"previous_owner"`
	RecoveryData  json.RawMessage `json:"recovery_data"`
}

// Document is the body of an answer; what it lacks is empty.
type Document struct {
	Session
	Instance    string    `json:"instance"`
	WorkerToken string    `json:"worker_token"`
	Sessions    []Session `json:"sessions"`
	Detail      string    `json:"detail"`
}

// Answer is whatever came of a request.
type Answer struct {
	Document
	asked  time.Duration
	status int // 0: there is none
	sent   bool
	pause  time.Duration // before it is asked again
	trust  int64         // milliseconds, -1 if it says nothing of that
	alone  int64
}

func (a Answer) done() bool { return a.status >= 200 && a.status < 300 }

// gone says that the call that it is about is over, or somebody else's.
func (a Answer) gone() bool { return a.status == 404 || a.status == 410 || a.status == 412 }

// unsure says that it was done, or will be, or never.
func (a Answer) unsure() bool { return a.sent && (a.status == 0 || a.status >= 500) }

func newClient(socket string) *http.Client {
	dialer := net.Dialer{Timeout: answerIn}
	dial := dialer.DialContext
	if socket != "" {
		dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		}
	}
	return &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 32}}
}

func (w *Worker) request(ctx context.Context, method, path string, epoch int64, body any) (*http.Response, error) {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, w.url+path, content)
	if err != nil {
		return nil, err
	}
	w.Lock()
	token := w.token
	w.Unlock()
	if token != "" {
		request.Header.Set("Worker-Token", token)
	}
	if epoch != 0 {
		request.Header.Set("If-Match", strconv.Quote(strconv.FormatInt(epoch, 10)))
	}
	return w.http.Do(request)
}

// ask makes one request, and returns what came of it.
func (w *Worker) ask(what, method, path string, epoch int64, body any) Answer {
	in := answerIn
	if what == "alive" {
		in = aliveIn
	}
	ctx, cancel := context.WithTimeout(context.Background(), in)
	defer cancel()
	asked := now()
	w.Lock()
	registered := w.token != ""
	w.Unlock()
	if !registered && what != "register" { // nothing else is answered without one
		return Answer{asked: asked, Document: Document{Detail: "not registered yet"}, pause: longestPause}
	}
	found, err := w.request(ctx, method, path, epoch, body)
	answer := read(asked, found, err)
	w.Lock()
	defer w.Unlock()
	if answer.trust >= 0 {
		w.trust.answered(asked, answer.trust, answer.alone)
	}
	w.note(what, answer)
	return answer
}

func read(asked time.Duration, found *http.Response, err error) Answer {
	answer := Answer{asked: asked, sent: true, pause: longestPause, trust: -1}
	var text []byte
	if err == nil {
		text, err = io.ReadAll(found.Body)
		found.Body.Close()
	}
	if err != nil {
		answer.Detail = "no answer: " + err.Error()
		answer.sent = !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ENOENT)
		return answer
	}
	answer.status = found.StatusCode
	if json.Unmarshal(text, &answer.Document) != nil {
		answer.Document = Document{Detail: answer.Detail}
	}
	if milliseconds, err := strconv.ParseInt(found.Header.Get("Trust-Ms"), 10, 64); err == nil {
		answer.trust = milliseconds
	}
	if milliseconds, err := strconv.ParseInt(found.Header.Get("Alone-Ms"), 10, 64); err == nil {
		answer.alone = milliseconds
	}
	if seconds, err := strconv.ParseUint(found.Header.Get("Retry-After"), 10, 16); err == nil {
		answer.pause = later(answer.pause, time.Duration(seconds)*time.Second)
	}
	if answer.pause > mostPause {
		answer.pause = mostPause
	}
	return answer
}

// note tells that something does not go well; once, until it does. What is gone is told as lost; without a stream only that is told.
func (w *Worker) note(what string, answer Answer) {
	knowsUs := answer.status != 401 && answer.status != 404 || what == "stream" // one that was started just now may not yet
	if answer.status != 0 && !answer.done() && knowsUs && !w.attached && answer.asked > w.detachedAt {
		w.trust.notAlone(false)
	}
	if answer.done() || (answer.gone() && what != "stream") {
		delete(w.refused, what)
		return
	}
	if w.refused[what][answer.status] || !(w.attached || what == "stream" || what == "register") {
		return
	}
	if w.refused[what] == nil {
		w.refused[what] = map[int]bool{}
	}
	w.refused[what][answer.status] = true
	tell("refused", fields{"request": what, "status": answer.status, "detail": answer.Detail})
}

func pathOf(session, what string) string { return "/v1/sessions/" + url.PathEscape(session) + what }
