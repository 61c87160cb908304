from collections.abc import Iterator

import pytest
import torch

from rlaif.training import products
from rlaif.training.products import Linear, product


@pytest.fixture(autouse=True, params=["Intel", "another"])
def maker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Who makes the processor, on which the library hangs."""
    monkeypatch.setattr(products, "_is_by_intel", lambda: request.param == "Intel")
    products.uses_onednn.cache_clear()
    yield request.param
    products.uses_onednn.cache_clear()


def test_mkl_is_left_to_the_processors_of_its_maker(maker: str) -> None:
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not torch.backends.mkldnn.is_available():
        pytest.skip("no choice on this processor")
    assert products.uses_onednn() == (maker == "another")


@pytest.mark.parametrize("strided", [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (37, 64, 19), (130, 300, 70)])
def test_a_product_is_the_product_whatever_the_strides(shape: tuple[int, int, int], strided: tuple[bool, bool]) -> None:
    rows, inner, columns = shape
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(rows, inner, generator=generator), torch.randn(inner, columns, generator=generator)
    given = [
        item.t().contiguous().t() if is_strided else item for item, is_strided in zip((a, b), strided, strict=True)
    ]
    want = a.double() @ b.double()
    torch.testing.assert_close(product(*given).double(), want, rtol=1e-5, atol=1e-4)


def test_a_product_of_nothing_has_its_shape() -> None:
    assert product(torch.zeros(0, 3), torch.zeros(3, 4)).shape == (0, 4)
    assert torch.equal(product(torch.zeros(2, 0), torch.zeros(0, 4)), torch.zeros(2, 4))


@pytest.mark.parametrize("bias", [False, True])
def test_the_backward_of_a_linear_layer_is_its_derivative(bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, offset = (
        torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)
        for shape in ((2, 3, 4), (5, 4), (5,))
    )

    def layer(x: torch.Tensor, weight: torch.Tensor, offset: torch.Tensor | None = None) -> torch.Tensor:
        result: torch.Tensor = Linear.apply(x, weight, offset)  # type: ignore[no-untyped-call]
        return result

    assert torch.autograd.gradcheck(layer, (x, weight, offset) if bias else (x, weight))


def test_a_frozen_linear_layer_has_the_gradients_of_torchs_own() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(7, 33, generator=generator, requires_grad=True)
    weight = torch.randn(21, 33, generator=generator)
    found = torch.autograd.grad(Linear.apply(x, weight, None).sin().sum(), x)  # type: ignore[no-untyped-call]
    own = torch.autograd.grad(torch.nn.functional.linear(x, weight).sin().sum(), x)
    torch.testing.assert_close(found, own, rtol=1e-5, atol=1e-5)
