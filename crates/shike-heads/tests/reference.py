"""Prints the values of reference.rs: needs numpy, scikit-learn and PyTorch."""
import numpy as np
import sklearn
import torch
from sklearn.linear_model import LogisticRegression
torch.set_default_dtype(torch.float64); torch.set_num_threads(1)
# x[i] = sin(1 + 0.7 i), five columns; class c's rows are moved by 0.8 in column c.
counts = [9, 6, 4, 2]
y = np.repeat(np.arange(4), counts); n = len(y); d = 5
x = np.sin(1 + 0.7*np.arange(n*d)).astype(np.float32).reshape(n, d)
for i in range(n): x[i, y[i]] += np.float32(0.8)
X = x.astype(np.float64); mean, dev = X.mean(0), X.std(0)
Z = (X-mean)/dev; U = Z/np.linalg.norm(Z, axis=1, keepdims=True)
q = np.cos(1 + 0.9*np.arange(2*d)).astype(np.float32).reshape(2, d).astype(np.float64)
Qz = (q-mean)/dev; Qu = Qz/np.linalg.norm(Qz, axis=1, keepdims=True)
def show(name, s):
    s = torch.tensor(s); print(name, [[round(v, 5) for v in r] for r in torch.log_softmax(s, 1).tolist()])
lr = LogisticRegression(tol=1e-10, max_iter=10000).fit(Z, y); show('logistic', lr.decision_function(Qz))
def lbfgs(f, p):
    o = torch.optim.LBFGS(p, max_iter=5000, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn='strong_wolfe')
    def c():
        o.zero_grad(); l = f(); l.backward(); return l
    for _ in range(5): o.step(c)
    return float(f().detach())
prior = torch.log(torch.tensor(counts)/n); Y = torch.tensor(y); tU, tZ = torch.tensor(U), torch.tensor(Z)
mu = torch.stack([tU[Y == c].mean(0) for c in range(4)])
ce = torch.nn.functional.cross_entropy
D = torch.zeros(4, d, requires_grad=True)
f = lambda: ce(20*tU@(mu+D).T + prior, Y) + 1e-2*(D**2).sum()
lbfgs(f, [D]); show('held', (20*torch.tensor(Qu)@(mu+D).T).detach().numpy())
for name, tau in (('linear', 0), ('linear-balanced', 1)):
    W = torch.zeros(4, d, requires_grad=True); b = torch.zeros(4, requires_grad=True)
    f = lambda: ce(tZ@W.T + b + tau*prior, Y) + 0.5/n*(W**2).sum()
    lbfgs(f, [W, b]); show(name, (torch.tensor(Qz)@W.T+b).detach().numpy())
w = np.array([n/(4*counts[c]) for c in y]); E = np.eye(4)[y]
A = np.hstack([U, np.ones((n, 1))]); P = np.eye(d+1)*4e-3*n; P[-1, -1] = 0
S = np.linalg.solve(A.T@(w[:, None]*A)+P, A.T@(w[:, None]*E))
R = 30*np.hstack([Qu, np.ones((2, 1))])@S; show('ridge', R)
K = lambda a, b: np.exp(-0.5*((a[:, None]-b[None])**2).sum(-1))
G = K(U, U); al = np.linalg.solve(G+1e-3*n*np.diag(1/w), E-0.25); show('kernel-ridge', 30*(K(Qu, U)@al+0.25))
m = np.stack([U[y == c].mean(0) for c in range(4)]); m /= np.linalg.norm(m, axis=1, keepdims=True)
show('class-means', 20*Qu@m.T)
lsm = lambda s: torch.log_softmax(torch.tensor(s), 1)
show('average', ((lsm(R)+lsm((20*torch.tensor(Qu)@(mu+D).T).detach().numpy()))/2).numpy())
print(sklearn.__version__, torch.__version__)
